// SPDX-License-Identifier: Apache-2.0
// Which versions of the mesh's parts run, by the tags of their images, and what it means when they
// are several. Pure. Thread: any.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace qanat::ctl {

// "0.1.0" of "registry:5000/qanat/agent:0.1.0"; "" where the image has no tag.
std::string ImageTag(const std::string& image);
// Of the pod's first container.
std::string VersionOfPod(const nlohmann::json& pod);

// Control planes of several versions: which, where, what to do; "" when there is one. Pods that end
// count: until they have ended, both run.
std::string SeveralControlPlanes(const std::vector<nlohmann::json>& pods);
// Agents and node proxies of another version than the control plane: works, but should end. "" when
// there are none, or the control planes themselves differ.
std::string OtherNodeVersions(const std::vector<nlohmann::json>& pods);

}  // namespace qanat::ctl
