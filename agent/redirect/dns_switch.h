// SPDX-License-Identifier: Apache-2.0
// The redirection of a pod's DNS to the proxy inside the pod: its table of servers and its switch
// in the kernel, and the local prefix of the IPv6 aliases. What the hooks do with it:
// bpf/include/dns.bpf.h.
#pragma once

#include "bpf/user/node_maps.h"
#include "common/base/result.h"
#include "common/netns/netns.h"

namespace qanat::agent {

// Idempotent; what is missing is put back. `families` are qanat_dns_families. True: something had
// to be done.
Result<bool> EnsureDns(bpf::NodeMaps& maps, uint32_t pod_id, const netns::NetNs& ns,
                       uint32_t families);
// The slot is another pod's from now on, or nobody's. The routes go with RestorePodNetwork().
void ForgetDns(bpf::NodeMaps& maps, uint32_t pod_id);
uint32_t DnsFamilies(const bpf::NodeMaps& maps, uint32_t pod_id);

// In the calling thread's network namespace.
Status RemoveDnsRoutes();

}  // namespace qanat::agent
