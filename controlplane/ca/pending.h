// SPDX-License-Identifier: Apache-2.0
// Something that has been asked for and whose answer comes later. Destroying it cancels: the
// callback that was given along is then not called any more.
#pragma once

#include <memory>

namespace qanat::controlplane {

class Pending {
 public:
  virtual ~Pending() = default;
};
using PendingPtr = std::unique_ptr<Pending>;

}  // namespace qanat::controlplane
