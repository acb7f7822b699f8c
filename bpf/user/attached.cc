// SPDX-License-Identifier: Apache-2.0
#include "bpf/user/attached.h"

#include <bpf/bpf.h>
#include <fcntl.h>

#include "common/base/fd.h"

namespace qanat::bpf {
namespace {

constexpr uint32_t kMaxPrograms = 256;

}  // namespace

Result<std::vector<AttachedProgram>> EffectivePrograms(const std::string& cgroup_dir,
                                                       AttachType type) {
  Fd cgroup(::open(cgroup_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) return FailErrno("open cgroup " + cgroup_dir);
  std::vector<uint32_t> ids(kMaxPrograms);
  uint32_t count = kMaxPrograms, flags = 0;
  if (bpf_prog_query(cgroup.get(), static_cast<bpf_attach_type>(KernelAttachType(type)),
                     BPF_F_QUERY_EFFECTIVE, &flags, ids.data(), &count) != 0)
    return FailErrno("list the programs at " + cgroup_dir);
  std::vector<AttachedProgram> out;
  for (uint32_t i = 0; i < count && i < kMaxPrograms; ++i) {
    AttachedProgram program{ids[i], ""};
    if (Fd fd(bpf_prog_get_fd_by_id(ids[i])); fd) {
      bpf_prog_info info{};
      uint32_t length = sizeof info;
      if (bpf_obj_get_info_by_fd(fd.get(), &info, &length) == 0) program.name = info.name;
    }
    out.push_back(std::move(program));
  }
  return out;
}

}  // namespace qanat::bpf
