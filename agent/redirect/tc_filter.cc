// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/tc_filter.h"

#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>

#include "agent/redirect/rtnetlink.h"

namespace qanat::agent::tc {
namespace {

constexpr uint32_t kHandle = 0x51414e41;  // "QANA": what tells our filter from another's
constexpr uint32_t kPriority = 1;         // before those that might let a packet go

bool IsOurs(const rtnl::Filter& filter) {
  return filter.handle == kHandle && filter.priority == kPriority;
}

bpf_tc_attach_point PointOf(rtnl::Direction direction) {
  return direction == rtnl::Direction::kIngress ? BPF_TC_INGRESS : BPF_TC_EGRESS;
}

}  // namespace

Result<uint32_t> ProgramAt(uint32_t ifindex, rtnl::Direction direction) {
  QANAT_ASSIGN_OR_RETURN(const auto filters, rtnl::Filters(ifindex, direction));
  const auto ours = std::find_if(filters.begin(), filters.end(), IsOurs);
  return ours == filters.end() ? 0 : ours->program_id;
}

Status Attach(int program_fd, uint32_t ifindex, rtnl::Direction direction) {
  QANAT_ASSIGN_OR_RETURN(const uint32_t present, ProgramAt(ifindex, direction));
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex),
              .attach_point = PointOf(direction));
  if (present == 0)
    if (const int error = bpf_tc_hook_create(&hook); error != 0 && error != -EEXIST)
      return FailErrno("add clsact", -error);
  LIBBPF_OPTS(bpf_tc_opts, filter, .prog_fd = program_fd,
              .flags = present != 0 ? static_cast<__u32>(BPF_TC_F_REPLACE) : 0, .handle = kHandle,
              .priority = kPriority);
  if (const int error = bpf_tc_attach(&hook, &filter); error != 0)
    return FailErrno("add the filter below clsact", -error);
  return {};
}

Status Detach(uint32_t ifindex) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex));
  bool ours = false;
  size_t others = 0;
  for (const auto direction : {rtnl::Direction::kIngress, rtnl::Direction::kEgress}) {
    QANAT_ASSIGN_OR_RETURN(const auto filters, rtnl::Filters(ifindex, direction));
    const auto of_us = std::count_if(filters.begin(), filters.end(), IsOurs);
    others += filters.size() - static_cast<size_t>(of_us);
    if (of_us == 0) continue;
    ours = true;
    hook.attach_point = PointOf(direction);
    LIBBPF_OPTS(bpf_tc_opts, filter, .handle = kHandle, .priority = kPriority);
    if (const int error = bpf_tc_detach(&hook, &filter); error != 0 && error != -ENOENT)
      return FailErrno("remove the filter below clsact", -error);
  }
  if (!ours || others != 0) return {};
  hook.attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS);
  if (const int error = bpf_tc_hook_destroy(&hook); error != 0 && error != -ENOENT)
    return FailErrno("remove clsact", -error);
  return {};
}

}  // namespace qanat::agent::tc
