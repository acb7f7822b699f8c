// SPDX-License-Identifier: Apache-2.0
// Which workload an enrolled pod is. Pure. The node agent (ZDS) and the pod's own namespace say who
// it is; the control plane (xDS) must say the same, else nothing is sent or received for it: an
// address that has just been given to another pod must not carry the old one's rights.
#pragma once

#include <string>

#include "common/model/reason.h"
#include "common/route/pod_facts.h"
#include "common/state/snapshot.h"

namespace qanat::route {

struct Mesh {  // where we are; from the configuration
  std::string network;
  std::string cluster_id = "Kubernetes";
};

struct Identified {
  model::Reason reason = model::Reason::kNone;  // kSourceUnknown or kAddressMismatch
  std::string detail;
  model::WorkloadPtr workload;  // set exactly when reason is kNone
};

Identified IdentifyPod(const state::MeshSnapshot& snapshot, const Mesh& mesh, const PodFacts& pod);

}  // namespace qanat::route
