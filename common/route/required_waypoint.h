// SPDX-License-Identifier: Apache-2.0
// Whether a destination that is to be reached through a waypoint only was: pure, and asked beside
// the policies. A workload with a waypoint of its own always asks for it; a service asks for its
// own by the label qanat.io/require-waypoint, as its pods may rightly be called by their addresses
// (stock proxies enforce neither: whoever goes around the waypoint goes around its policies).
#pragma once

#include <string>

#include "common/model/reason.h"
#include "common/route/gateways.h"
#include "common/state/snapshot.h"

namespace qanat::route {

struct RequiredWaypoint {
  model::Reason reason = model::Reason::kNone;  // or kWaypointRequired
  std::string detail;
};

// `target` is the application's address, as policies see it.
RequiredWaypoint CheckRequiredWaypoint(const state::MeshSnapshot& snapshot,
                                       const model::Workload& local,
                                       const net::SocketAddress& target, const Sender& sender);

}  // namespace qanat::route
