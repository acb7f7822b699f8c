// SPDX-License-Identifier: Apache-2.0
// The parts of an Envoy route that VirtualService and HTTPRoute have in common. Only for the .cc
// files of this folder: heavy headers.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "controlplane/envoy/scope.h"
#include "envoy/config/route/v3/route_components.pb.h"

namespace qanat::controlplane {

namespace route_v3 = ::envoy::config::route::v3;

// RE2 understands it. What it does not would make a proxy refuse the whole configuration.
bool IsRegex(const std::string& regex);
// `text` as the replacement of a regular expression's match.
std::string QuoteSubstitution(std::string_view text);

// Where requests go, with the share that goes there.
struct RouteTarget {
  std::string cluster;
  uint32_t weight = 1;
  HeaderOps request;
  HeaderOps response;
  const Service* service = nullptr;  // nullptr: unknown
  std::string subset;
};
// At least one target.
void SetTargets(const std::vector<RouteTarget>& targets, route_v3::Route* route);
// The keys of consistent hashing, which the destination's DestinationRule asks for.
void SetHashPolicy(const Scope& scope, const std::vector<RouteTarget>& targets, uint16_t port,
                   route_v3::RouteAction* action);

struct RetryParts {
  std::string retry_on;  // "" is the default set; bare status codes are allowed
  uint32_t attempts = 2;
  std::vector<uint32_t> codes;
  std::optional<Millis> per_try_timeout;
  std::optional<Millis> backoff;
  bool ignore_previous_hosts = true;
};
void SetRetry(const RetryParts& parts, route_v3::RouteAction* action);

void SetResponseCode(uint32_t status, route_v3::RedirectAction* redirect);
void SetDirectResponse(uint32_t status, const std::string& body, route_v3::Route* route);
void AddMirror(const std::string& cluster, double percent, route_v3::RouteAction* action);

// The prefix that a request's path begins with is replaced; `by` "/" does not leave "//".
void SetPrefixRewrite(const std::string& prefix, const std::string& by,
                      route_v3::RouteAction* action);
void SetFullPathRewrite(const std::string& by, route_v3::RouteAction* action);

// Which object the route comes from: "/apis/<group>/v1/namespaces/<ns>/<kind>/<name>".
void SetOrigin(const ObjectMeta& meta, std::string_view group, std::string_view kind,
               route_v3::Route* route);

// Header operations as a proxy takes them: names that HTTP does not allow are told and left out. A
// Host to be set is a rewrite, not a header: it goes to `host`.
HeaderOps CheckedOps(Scope& scope, const ObjectMeta& meta, int line, const HeaderOps& ops,
                     std::string* host);
void SetHeaderOps(const HeaderOps& request, const HeaderOps& response, route_v3::Route* route);

// Both kinds, into the virtual host; false when the service has no route of that kind.
bool AddVirtualServiceRoutes(Scope& scope, const ServedPort& served, route_v3::VirtualHost* host);
bool AddHttpRoutes(Scope& scope, const ServedPort& served, route_v3::VirtualHost* host);

}  // namespace qanat::controlplane
