// SPDX-License-Identifier: Apache-2.0
#include "bpf/user/attached.h"

#include <bpf/bpf.h>
#include <fcntl.h>

#include <algorithm>

#include "common/base/fd.h"

namespace qanat::bpf {
namespace {

constexpr uint32_t kMaxPrograms = 256;

}  // namespace

Result<std::vector<uint32_t>> ProgramIds(const std::string& cgroup_dir, AttachType type,
                                         bool inherited) {
  Fd cgroup(::open(cgroup_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) return FailErrno("open cgroup " + cgroup_dir);
  uint32_t ids[kMaxPrograms], count = kMaxPrograms, flags = 0;
  if (bpf_prog_query(cgroup.get(), static_cast<bpf_attach_type>(KernelAttachType(type)),
                     inherited ? BPF_F_QUERY_EFFECTIVE : 0, &flags, ids, &count) != 0)
    return FailErrno("list the programs at " + cgroup_dir);
  return std::vector<uint32_t>(ids, ids + std::min(count, kMaxPrograms));
}

AttachedProgram DescribeProgram(uint32_t id) {
  AttachedProgram program{id, ""};
  if (Fd fd(bpf_prog_get_fd_by_id(id)); fd) {
    bpf_prog_info info{};
    uint32_t length = sizeof info;
    if (bpf_obj_get_info_by_fd(fd.get(), &info, &length) == 0) program.name = info.name;
  }
  return program;
}

}  // namespace qanat::bpf
