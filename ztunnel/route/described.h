// SPDX-License-Identifier: Apache-2.0
// Workloads that are known by a peer's words only (baggage), and from whom an incoming tunnel's
// word about a far source is taken. Pure.
#pragma once

#include <string_view>

#include "common/model/workload.h"
#include "common/route/gateways.h"
#include "common/state/snapshot.h"
#include "ztunnel/telemetry/headers.h"

namespace qanat::ztunnel {

// A workload as baggage describes it: names for labels and the log, no identity and no address.
model::WorkloadPtr Described(std::string_view network, const Baggage& said);
model::WorkloadPtr Described(std::string_view network, std::string_view baggage);

// The source that baggage describes, for labels and the log only, when it came over the gateway of
// another network (x-forwarded-network). nullptr: the sender is not that network's gateway, and
// nothing of what it says is believed.
model::WorkloadPtr ForwardedSource(const state::MeshSnapshot& snapshot, const route::Sender& sender,
                                   std::string_view forwarded_network, std::string_view baggage);

}  // namespace qanat::ztunnel
