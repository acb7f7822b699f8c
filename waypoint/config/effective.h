// SPDX-License-Identifier: Apache-2.0
// What applies to one request: its route, and each filter's rules after the overrides of route,
// virtual host and table. Pure; the data path and /debug/why ask here alike.
#pragma once

#include "waypoint/config/config.h"

namespace qanat::waypoint {

struct Effective {
  RouteChoice choice;
  RbacList rbac;
  const Fault* fault = nullptr;
  const CorsPolicy* cors = nullptr;
};

// `table` may be null (not received): then no route, and the filters' own rules.
Effective Resolve(const HttpChain& chain, const RouteTable* table, const HeadView& head,
                  uint64_t random, std::vector<RouteMiss>* misses = nullptr);

// The address that RBAC's remote_ip means, and what goes into x-forwarded-for.
net::IpAddress RemoteAddress(const HttpChain& chain, const HeadView& head,
                             const net::IpAddress& peer);

}  // namespace qanat::waypoint
