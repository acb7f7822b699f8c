// SPDX-License-Identifier: Apache-2.0
// Envoy v3 resources as bytes -> the waypoint's own values. Pure. What a resource asks for and we
// cannot do is an error that names the field, with one exception: a part of an authorization policy
// that is not understood becomes a condition that never allows and always denies, the resource is
// still applied (the state before it might allow more), and `restricted` says so for the NACK.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "waypoint/config/config.h"

namespace qanat::waypoint {

template <typename T>
struct Decoded {
  std::shared_ptr<const T> value;
  std::vector<std::string> restricted;
};

Result<Decoded<ListenerConfig>> DecodeListener(std::string_view bytes);
Result<Decoded<RouteTable>> DecodeRoutes(std::string_view bytes);
Result<Decoded<ClusterConfig>> DecodeCluster(std::string_view bytes);
Result<Decoded<EndpointSet>> DecodeEndpoints(std::string_view bytes);

// The bytes of an envoy.extensions.filters.http.rbac.v3.RBAC alone; nothing if they do not parse.
Result<Decoded<RbacRules>> DecodeRbacFilter(std::string_view bytes);

}  // namespace qanat::waypoint
