// SPDX-License-Identifier: Apache-2.0
// The mesh into a cluster, out of it, and is it all there: what the commands install, uninstall and
// verify do once they know the API server. Thread: any; blocks.
#pragma once

#include <chrono>
#include <set>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "tools/qanatctl/install/api.h"
#include "tools/qanatctl/install/manifest.h"
#include "tools/qanatctl/install/wait.h"

namespace qanat::ctl {

struct InstallOptions {
  InstallValues values;
  bool force = false;  // go on where a prerequisite is missing or an object is not ours
  std::chrono::seconds timeout{180};
};
// Prerequisites, CRDs, control plane, then the nodes' parts; waits for each. Repeatable: a second
// run is an upgrade or a repair. CRDs that are not ours are never touched, whatever `force` says.
Status Install(const Api& api, const InstallOptions& options, const Pace& pace);

// Those of our CRDs that the cluster has from somebody else. Asks for at most some seconds.
Result<std::set<std::string>> OthersCrds(const Api& api);

struct UninstallOptions {
  std::string ns = "qanat-system";
  // The CA's key, our CRDs (and with them the users' policies), the namespace, and the root
  // namespace if we made it and nobody has put anything into it.
  bool purge = false;
  bool force = false;  // go on although a node's agent does not work or does not end
  std::chrono::seconds timeout{180};
};
// Agents first, and with everything that they need to restore their nodes; at the end says what is
// left and fails if it is more than was asked to be kept.
Status Uninstall(const Api& api, const UninstallOptions& options, const Pace& pace);

struct Check {
  enum class State { kFine, kNote, kWrong };
  State state = State::kFine;
  std::string what;
  std::string detail;
};
// Every object, each node's agent and proxy, the CA and its certificate in every namespace.
Result<std::vector<Check>> Verify(const Api& api, const std::string& ns);

}  // namespace qanat::ctl
