// SPDX-License-Identifier: Apache-2.0
#include "controlplane/ads/object_status.h"

#include <algorithm>
#include <map>
#include <utility>

namespace qanat::controlplane {

std::vector<ObjectStatus> ObjectStatuses(AdsHub& hub) {
  if (hub.snapshot() == nullptr) return {};
  const World& world = *hub.snapshot()->world;
  std::vector<ObjectStatus> objects = BuildStatus(world);
  std::map<std::pair<std::string, NamespacedName>, ObjectStatus*> by_name;
  for (ObjectStatus& object : objects) by_name[{object.kind, object.name}] = &object;
  for (const Gateway& gateway : world.objects().gateways) {
    if (!world.IsWaypoint(gateway)) continue;
    for (const Notice& notice : hub.Waypoint(gateway.meta.key()).notices) {
      const auto it = by_name.find({notice.kind, notice.object});
      if (it == by_name.end()) continue;
      std::vector<StatusCondition>& conditions = it->second->conditions;
      const bool told =
          std::any_of(conditions.begin(), conditions.end(), [&](const StatusCondition& c) {
            return c.reason == notice.reason && c.message == notice.message;
          });
      if (!told) conditions.push_back({"ResolvedRefs", false, notice.reason, notice.message});
    }
  }
  return objects;
}

}  // namespace qanat::controlplane
