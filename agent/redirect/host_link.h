// SPDX-License-Identifier: Apache-2.0
// The node's ends of a pod's veths: where what the pod sends and gets can be looked at out of its
// reach. Other kinds of devices (macvlan, an interface of the machine's moved into the pod) have no
// such end. Stateless; blocking for microseconds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "agent/redirect/rtnetlink.h"
#include "common/base/result.h"
#include "common/netns/netns.h"

namespace qanat::agent {

struct HostEnds {
  std::vector<uint32_t> devices;  // in the calling thread's namespace, which is the node's
  std::string missing;  // which of the pod's devices has none, and why; "": every one does
  bool operator==(const HostEnds&) const = default;
};

// `interfaces`: the pod's. What is said there is compared with what the node's end says of the pod.
Result<HostEnds> FindHostEnds(const netns::NetNs& pod,
                              const std::vector<rtnl::Interface>& interfaces);

}  // namespace qanat::agent
