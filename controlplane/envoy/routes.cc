// SPDX-License-Identifier: Apache-2.0
// RDS: one RouteConfiguration for each HTTP port that the waypoint serves, with the policies that
// hold there.
#include "controlplane/envoy/names.h"
#include "controlplane/envoy/proto_util.h"
#include "controlplane/envoy/rbac.h"
#include "controlplane/envoy/route_parts.h"
#include "envoy/config/route/v3/route.pb.h"

namespace qanat::controlplane {
namespace {

void AddDefaultRoute(Scope& scope, const ServedPort& served, route_v3::VirtualHost* host) {
  route_v3::Route* route = host->add_routes();
  route->set_name("default");
  route->mutable_match()->set_prefix("/");
  std::string problem;
  RouteTarget target;
  target.service = served.service;
  target.cluster =
      scope.ClusterFor(served.service->hostname, served.port->port, "", true, &problem);
  SetTargets({target}, route);
  SetHashPolicy(scope, {target}, served.port->port, route->mutable_route());
  SetDuration(route->mutable_route()->mutable_timeout(), Millis(0));
  SetRetry({}, route->mutable_route());
}

// Matches whatever the routes before it leave, so that policy comes before "not found".
void AddNoRoute(route_v3::VirtualHost* host) {
  if (host->routes_size() > 0) {
    const route_v3::RouteMatch& last = host->routes(host->routes_size() - 1).match();
    if (last.prefix() == "/" && last.headers().empty() && last.query_parameters().empty()) return;
  }
  route_v3::Route* route = host->add_routes();
  route->set_name("no-route");
  route->mutable_match()->set_prefix("/");
  SetDirectResponse(404, "", route);
}

}  // namespace

void EmitRoutes(Scope& scope) {
  for (const ServedPort& served : scope.ports()) {
    if (served.kind == PortKind::kTcp) continue;
    route_v3::RouteConfiguration configuration;
    configuration.set_name(served.HttpName());
    // A cluster that is missing costs its own requests, not the whole configuration.
    configuration.mutable_validate_clusters()->set_value(false);
    route_v3::VirtualHost* host = configuration.add_virtual_hosts();
    host->set_name(served.service->hostname + ":" + std::to_string(served.port->port));
    host->add_domains("*");
    host->set_include_request_attempt_count(true);
    OverrideRbac(CompilePolicies(scope, served, true), host);
    // One of the two: with both, Istio's kind counts, as it is the more specific wish.
    const bool virtual_service = AddVirtualServiceRoutes(scope, served, host);
    if (virtual_service) {
      for (const HttpRoute* ignored : scope.world().HttpRoutesFor(*served.service)) {
        scope.Tell(ignored->meta, 0, "UnsupportedValue",
                   "a VirtualService holds for " + served.service->hostname +
                       ", this HTTPRoute is not used for it: use one kind for a service");
      }
    } else if (!AddHttpRoutes(scope, served, host)) {
      AddDefaultRoute(scope, served, host);
    }
    AddNoRoute(host);
    scope.Emit(kRouteType, configuration.name(), configuration);
  }
}

}  // namespace qanat::controlplane
