// SPDX-License-Identifier: Apache-2.0
// Finds pods' network namespaces without asking the container runtime: a process whose control
// group names the pod's UID shows the namespace, and a file below /run/netns with the same inode is
// preferred as path, because it lives as long as the sandbox and not as one process. Needs the
// node's pid namespace and CAP_SYS_PTRACE. Blocking: one pass over /proc, some ms for hundreds of
// processes.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/netns/netns.h"

namespace qanat::agent {

struct FoundNetns {
  std::string path;
  netns::Id id;
};

struct NetnsFinderOptions {
  std::string proc = "/proc";
  std::vector<std::string> netns_dirs = {"/var/run/netns", "/run/netns"};
};

// By UID; pods without a process and pods of the node's own namespace are not in it. Of several
// namespaces in one pod, that of its oldest process counts: the sandbox was there before anything
// that could have made itself another one.
Result<std::map<std::string, FoundNetns>> FindNetns(const std::set<std::string>& uids,
                                                    const NetnsFinderOptions& options = {});

// The identity of the namespace at `path`, without opening a process's descriptors.
Result<netns::Id> NetnsIdOf(const std::string& path);

}  // namespace qanat::agent
