// SPDX-License-Identifier: Apache-2.0
// For tests of what a program gives up: each case in a child of its own, since nothing of it can be
// taken back.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "common/base/result.h"

namespace qanat::test {

// What `action` returns in a child, and in `log` what the child wrote to stderr.
std::string InChild(const std::function<std::string()>& action, std::string* log = nullptr);

std::string ErrorOf(long result);  // "ok", or the name of errno
// A line of /proc/self/status, "CapEff:", without its name.
std::string OwnStatus(const std::string& name);

struct Attempt {
  const char* name;
  std::function<long()> call;
  const char* expected = "EPERM";
};
// "done" when each attempt ended as expected after `enter`; else also those that did not.
std::string TryAll(const std::function<Status()>& enter, const std::vector<Attempt>& attempts);

// A call that is in more than one of the lists that make a filter, 0 when there is none: one that
// is checked and also allowed is not checked.
int ListedTwice(std::span<const int> own);

}  // namespace qanat::test
