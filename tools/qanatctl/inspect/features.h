// SPDX-License-Identifier: Apache-2.0
// Features of nodes' kernels as a table.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace qanat::ctl {

// `nodes`: {node: {kernel, features: {name: {present, forbidden, why, instead}}}} of the agents.
std::string FeaturesTable(const nlohmann::json& nodes);

}  // namespace qanat::ctl
