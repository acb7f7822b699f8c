// SPDX-License-Identifier: Apache-2.0
// What has to be asked for before something can be decided, where the mesh is known by demand only
// (XDS_ON_DEMAND). Pure. Names are those of the workload xDS: "network/IP", "namespace/hostname".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/state/snapshot.h"

namespace qanat::route {

std::string NameOf(std::string_view network, const net::IpAddress& ip);
std::string NameOf(const model::GatewayAddress& gateway);
// Whether there is something of that name; uids as well.
bool IsKnown(const state::MeshSnapshot& snapshot, std::string_view name);

// What decides who may come in to `local` beside its policies: its services and the waypoints of
// them and its own. Only what is neither known nor known to be absent.
std::vector<std::string> MissingAround(const state::MeshSnapshot& snapshot,
                                       const model::Workload& local);

// ... and what else the decision about an incoming tunnel takes: what its authority names, and who
// has the address that it comes from.
std::vector<std::string> MissingForInbound(const state::MeshSnapshot& snapshot,
                                           const model::Workload& local,
                                           const net::SocketAddress& tunnel,
                                           std::string_view authority,
                                           const net::IpAddress& sender);

}  // namespace qanat::route
