// SPDX-License-Identifier: Apache-2.0
// Whether a pod brings a proxy of its own, as sidecar injection gives it one: its traffic must not
// be captured once more. Pure.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace qanat::kube {

// What shows it, or "" where nothing does. `pod` is as the API server gives it.
std::string SidecarOf(const nlohmann::json& pod);

// Why such a pod is not in the mesh though its labels ask for that, and what to do.
std::string SidecarProblem(const std::string& shown_by);

}  // namespace qanat::kube
