// SPDX-License-Identifier: Apache-2.0
// From the model to what one waypoint is told: Envoy v3 LDS, RDS, CDS and EDS, as README.md lists
// them field by field. Pure: same World, same bytes. Any thread may call it.
#pragma once

#include <string>
#include <tuple>
#include <vector>

#include "controlplane/model/resource.h"
#include "controlplane/model/world.h"

namespace qanat::controlplane {

// Something that an object asks for and that the waypoint will not do as asked, for the object's
// status. `message` says what, what happens instead, and what to write to get what was meant.
struct Notice {
  std::string kind;  // of the object
  NamespacedName object;
  SourceLocation location;
  std::string reason;  // UnsupportedValue, BackendNotFound, RefNotPermitted, InvalidKind
  std::string message;
  auto Key() const { return std::tie(kind, object, location.line, reason, message); }
  bool operator<(const Notice& other) const { return Key() < other.Key(); }
  bool operator==(const Notice& other) const { return Key() == other.Key(); }
};

struct WaypointConfig {
  ResourceSet resources;        // the four types are always there, also when empty
  std::vector<Notice> notices;  // sorted, each once
};

// `waypoint` need not exist any more: then it gets the constant listeners and clusters only, and
// refuses every connection.
WaypointConfig BuildWaypoint(const World& world, const WaypointKey& waypoint);

}  // namespace qanat::controlplane
