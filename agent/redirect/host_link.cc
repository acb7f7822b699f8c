// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/host_link.h"

#include <algorithm>

namespace qanat::agent {
namespace {

// "" when the interface is the other end of an interface of this namespace.
Result<std::string> WhyNot(const rtnl::Interface& inner, int pod_id) {
  if (inner.kind != "veth")
    return inner.name + " is no veth" + (inner.kind.empty() ? "" : " but of kind " + inner.kind);
  const std::string elsewhere = inner.name + " has its other end not in the node's namespace";
  if (inner.link == 0 || inner.link_netns < 0 || pod_id < 0) return elsewhere;
  auto outer = rtnl::InterfaceAt(inner.link);
  if (!outer && outer.error().code == Code::kNotFound) return elsewhere;
  if (!outer) return tl::unexpected(std::move(outer).error());
  // The index may be that of another interface here: the two must point at each other.
  const bool each_other =
      outer->kind == "veth" && outer->link == inner.ifindex && outer->link_netns == pod_id;
  return each_other ? "" : elsewhere;
}

}  // namespace

Result<HostEnds> FindHostEnds(const netns::NetNs& pod,
                              const std::vector<rtnl::Interface>& interfaces) {
  HostEnds ends;
  QANAT_ASSIGN_OR_RETURN(const int pod_id, rtnl::IdOfNamespace(pod.fd()));
  for (const auto& inner : interfaces) {
    if (inner.loopback) continue;
    QANAT_ASSIGN_OR_RETURN(const std::string why_not, WhyNot(inner, pod_id));
    if (why_not.empty())
      ends.devices.push_back(inner.link);
    else if (ends.missing.empty())
      ends.missing = why_not;
  }
  std::sort(ends.devices.begin(), ends.devices.end());
  return ends;
}

}  // namespace qanat::agent
