// SPDX-License-Identifier: Apache-2.0
// What is executed for a pod, and in which surroundings: a container in its sandbox, or a waypoint,
// which is the mesh's own program. Pure but for the environment variables that waypoints inherit.
#pragma once

#include <vector>

#include "tools/qanatctl/local/container.h"
#include "tools/qanatctl/local/env.h"
#include "tools/qanatctl/local/pod_world.h"

namespace qanat::local {

// Also notes the container's environment in container.env.
Result<SpawnSpec> ContainerSpawn(const PodWorld& world, const PodPlan& plan, const PodFacts& facts,
                                 const std::vector<net::IpAddress>& ips, const PodPlaces& places,
                                 Container& container);
SpawnSpec WaypointSpawn(const PodWorld& world, const PodPlan& plan, const PodFacts& facts,
                        const PodPlaces& places, const Container& container);

}  // namespace qanat::local
