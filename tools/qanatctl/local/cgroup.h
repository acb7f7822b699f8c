// SPDX-License-Identifier: Apache-2.0
// cgroup2 directories: every process of a mesh lives below <cgroup2>/qanat-<mesh>, so that all of
// them can be found and ended whoever started them and whatever became of the supervisor.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "common/base/result.h"

namespace qanat::local {

// Where cgroup2 is mounted, from /proc/self/mountinfo (hosts are unified or hybrid).
Result<std::string> FindCgroup2();

Status MakeCgroup(const std::string& path);
Status EnterCgroup(const std::string& path, pid_t pid);       // 0: the caller
std::vector<pid_t> CgroupProcesses(const std::string& path);  // with everything below
// SIGKILL to everything below (cgroup.kill, or one by one where the kernel has none).
void KillCgroup(const std::string& path);
void SignalCgroup(const std::string& path, int signal);
// Removes the directories, deepest first; waits up to `wait_ms` for the last processes to go.
Status RemoveCgroup(const std::string& path, int wait_ms);

}  // namespace qanat::local
