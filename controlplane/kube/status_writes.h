// SPDX-License-Identifier: Apache-2.0
// What became of users' objects, as server-side applies on their status: policies, routes, services
// with a waypoint, our GatewayClasses. Only what differs from what the API server has. Pure.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/yaml/yaml.h"
#include "controlplane/kube/writer.h"
#include "controlplane/model/world.h"
#include "controlplane/source/issue.h"
#include "controlplane/translate/status.h"

namespace qanat::controlplane {

// The name under which we speak in an object that several controllers write to.
inline constexpr std::string_view kControllerName = "qanat.io/mesh-controller";
// Stock's, of class istio-waypoint.
inline constexpr std::string_view kStockControllerName = "istio.io/mesh-controller";

// The `status` that the API server has; nullptr when none.
using Observed = std::function<const YamlNode*(std::string_view kind, const NamespacedName& key)>;

// `issues`: an object that could not be understood says so in its own status.
Writes StatusWrites(const World& world, const std::vector<ObjectStatus>& statuses,
                    const std::vector<Issue>& issues, const Observed& observed,
                    const std::string& now);

}  // namespace qanat::controlplane
