// SPDX-License-Identifier: Apache-2.0
// What `qanatctl node features` shows: /capture has it of a running agent, `qanat-agent --features`
// of a node whose kernel an agent refuses.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "bpf/user/features.h"

namespace qanat::agent {

nlohmann::json FeaturesJson(const std::vector<bpf::Feature>& features);
// Probes and prints; returns the exit code: 1 where an agent would not start.
int PrintFeatures();

}  // namespace qanat::agent
