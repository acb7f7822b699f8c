// SPDX-License-Identifier: Apache-2.0
// What a container takes from a process and the agent needs back, without being privileged: the
// node's view of control groups and a writable /proc/sys/net; and whether the rest is there. Called
// once, before any thread starts.
#pragma once

#include <string>

#include "common/base/result.h"

namespace qanat::agent {

// Into the control group namespace of the node's first process, so that paths in /proc and in
// mountinfo are the node's. Needs hostPID and CAP_SYS_ADMIN. Nothing to do outside a container.
Status EnterNodesCgroupNamespace();

// Containers get /proc/sys read-only; remounts it in our own mount namespace. The sysctls that are
// written are those of pods' network namespaces.
Status MakeProcSysWritable();

// Whether rules and routes of pods can be changed: else the agent would begin, and refuse every pod
// on its own.
Status CheckNetworkRights();

// Pins outlive us only on the node's own bpffs: one mounted in here would end with the container.
Status CheckBpfFs(const std::string& root = "/sys/fs/bpf");

// Removes a folder of the node that is empty now, by the first process's root: in here it is a
// mount point. What is not empty stays.
void RemoveNodeFolder(const std::string& path);

}  // namespace qanat::agent
