// SPDX-License-Identifier: Apache-2.0
// What the kernel programs know of a pod's further addresses (maps `own_ips`, `source_ips`).
// Stateless.
#pragma once

#include <cstdint>
#include <vector>

#include "bpf/user/node_maps.h"
#include "common/base/result.h"
#include "common/net/address.h"

namespace qanat::agent {

// Exactly `ips` are in the map for this pod, those of the slot's last owner are not. Beyond
// QANAT_OWN_IPS_PER_POD the first ones count: the others are captured, but the proxy does not reach
// the application by them.
Status SyncOwnIps(bpf::NodeMaps& maps, uint32_t pod_id, const std::vector<net::IpAddress>& ips);
// Whether all of them are there.
bool HasOwnIps(const bpf::NodeMaps& maps, uint32_t pod_id, const std::vector<net::IpAddress>& ips);

// The same of those that it may send from.
Status SyncSourceIps(bpf::NodeMaps& maps, uint32_t pod_id, const std::vector<net::IpAddress>& ips);
bool HasSourceIps(const bpf::NodeMaps& maps, uint32_t pod_id,
                  const std::vector<net::IpAddress>& ips);

}  // namespace qanat::agent
