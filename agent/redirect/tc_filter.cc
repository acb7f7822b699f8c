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

}  // namespace

Result<uint32_t> EgressProgram(uint32_t ifindex) {
  QANAT_ASSIGN_OR_RETURN(const auto filters, rtnl::Filters(ifindex, rtnl::Direction::kEgress));
  const auto ours = std::find_if(filters.begin(), filters.end(), IsOurs);
  return ours == filters.end() ? 0 : ours->program_id;
}

Status AttachEgress(int program_fd, uint32_t ifindex) {
  QANAT_ASSIGN_OR_RETURN(const uint32_t present, EgressProgram(ifindex));
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex),
              .attach_point = BPF_TC_EGRESS);
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

Status DetachEgress(uint32_t ifindex) {
  QANAT_ASSIGN_OR_RETURN(auto egress, rtnl::Filters(ifindex, rtnl::Direction::kEgress));
  if (std::none_of(egress.begin(), egress.end(), IsOurs)) return {};
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(ifindex),
              .attach_point = BPF_TC_EGRESS);
  LIBBPF_OPTS(bpf_tc_opts, filter, .handle = kHandle, .priority = kPriority);
  if (const int error = bpf_tc_detach(&hook, &filter); error != 0 && error != -ENOENT)
    return FailErrno("remove the filter below clsact", -error);
  QANAT_ASSIGN_OR_RETURN(egress, rtnl::Filters(ifindex, rtnl::Direction::kEgress));
  QANAT_ASSIGN_OR_RETURN(const auto ingress, rtnl::Filters(ifindex, rtnl::Direction::kIngress));
  if (!egress.empty() || !ingress.empty()) return {};
  hook.attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS);
  if (const int error = bpf_tc_hook_destroy(&hook); error != 0 && error != -ENOENT)
    return FailErrno("remove clsact", -error);
  return {};
}

}  // namespace qanat::agent::tc
