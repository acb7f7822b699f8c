// SPDX-License-Identifier: Apache-2.0
// Who the two ends of a recorded connection are. Pure.
#pragma once

#include <string>

#include "agent/pods/pod.h"
#include "bpf/include/abi.h"
#include "common/model/workload.h"
#include "common/state/snapshot.h"
#include "common/telemetry/flow.h"

namespace qanat::agent::telemetry {

struct Ends {
  model::WorkloadPtr source, destination;
  qanat::telemetry::SharedIdentity source_identity, destination_identity;
  model::ServicePtr service;                            // that the client asked for
  std::string source_principal, destination_principal;  // "" is not known
};

// `own`: the pod whose socket it was; `peer`: the other end's, known of direct connections.
// Either may be gone (nullptr), and so may the mesh. The other end of the rest is who has its
// address now; behind a service it is whoever all of its endpoints run as, if that is one.
Ends EndsOf(const qanat_record& record, const Pod* own, const Pod* peer,
            const state::SnapshotPtr& snapshot, const std::string& network);

}  // namespace qanat::agent::telemetry
