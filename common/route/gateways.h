// SPDX-License-Identifier: Apache-2.0
// Who is a gateway: whose certificate a waypoint or a network's gateway shows, and whose word about
// others counts. Pure.
#pragma once

#include <optional>
#include <string_view>

#include "common/model/identity.h"
#include "common/state/snapshot.h"

namespace qanat::route {

// Who an incoming connection is from: what its certificate (or, in one pass, its namespace) proved,
// and the address that it came from.
struct Sender {
  std::optional<model::Identity> identity;  // none: plaintext
  net::IpAddress ip;
};

// Whether `identity` is that of a pod behind `gateway`, or one that its service names.
bool HasIdentity(const state::MeshSnapshot& snapshot, const model::GatewayAddress& gateway,
                 const model::Identity& identity);

// A gateway that the control plane marked (qanat.io/gateway): identity and place both count,
// anybody may run under its service account elsewhere. A native tunnel alone says nothing: whoever
// may make a pod may label it so.
bool IsGateway(const state::MeshSnapshot& snapshot, std::string_view network, const Sender& sender);

}  // namespace qanat::route
