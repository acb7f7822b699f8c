// SPDX-License-Identifier: Apache-2.0
// Where cgroup2 and bpffs are. Hosts are unified (/sys/fs/cgroup) or hybrid
// (/sys/fs/cgroup/unified), and containers differ: the mount table is asked, never a path assumed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace qanat::bpf {

struct Mount {
  std::string root;  // of the mounted file system, "/" when all of it
  std::string point;
  std::string type;
};
// Pure: lines of /proc/self/mountinfo; what cannot be read is skipped. Octal escapes are undone.
std::vector<Mount> ParseMountInfo(std::string_view text);

// The mount point that shows the whole cgroup2 tree.
Result<std::string> FindCgroup2();
// Makes sure that `dir` exists and lies on a bpffs; mounts one at /sys/fs/bpf when there is none.
Status EnsureBpfDir(const std::string& dir);
// The id that BPF programs see: the inode number of the cgroup's directory.
Result<uint64_t> CgroupId(const std::string& dir);
// Path below the cgroup2 mount of a process ("/a/b"), from /proc/PID/cgroup.
Result<std::string> CgroupOfProcess(int pid);

}  // namespace qanat::bpf
