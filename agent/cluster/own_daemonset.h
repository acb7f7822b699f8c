// SPDX-License-Identifier: Apache-2.0
// Is our DaemonSet being deleted? Then the node is given back as it was; else (an upgrade, a
// restart) everything stays enforced. It is followed while we live, because at the end the rights
// to ask may be gone with it. Lives on the agent's loop; the client outlives it.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/kube/client.h"
#include "common/kube/reflector.h"

namespace qanat::agent {

class OwnDaemonSet {
 public:
  OwnDaemonSet(kube::Client& client, std::string ns, std::string name);
  // Calls `done` once, within two seconds. What cannot be known counts as "stays".
  void AskWhetherItEnds(std::function<void(bool ends)> done);

 private:
  kube::Client& client_;
  std::string ns_, name_;
  bool ended_ = false;  // as followed
  std::unique_ptr<kube::Reflector> reflector_;
  kube::HandlePtr call_;
};

// Pure: has this object a deletionTimestamp?
bool IsBeingDeleted(std::string_view json);

}  // namespace qanat::agent
