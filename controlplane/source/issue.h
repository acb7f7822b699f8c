// SPDX-License-Identifier: Apache-2.0
// What is wrong with what a user wrote: file, line, object, message, remedy. Goes to the log, to
// /debug/status and from there to qanatctl.
#pragma once

#include <string>

namespace qanat::controlplane {

struct Issue {
  // kError: the object (or file) does not count as written; kWarning: it counts, but not all of it
  // means what it seems to.
  enum class Severity { kError, kWarning };
  Severity severity = Severity::kError;
  std::string file;
  int line = 0;
  std::string object;  // "VirtualService shop/reviews", "" when the file itself is meant
  std::string message;
  std::string remedy;
  auto operator<=>(const Issue&) const = default;
};

}  // namespace qanat::controlplane
