// SPDX-License-Identifier: Apache-2.0
#include "controlplane/envoy/scope.h"

#include <algorithm>
#include <utility>

#include "controlplane/envoy/names.h"

namespace qanat::controlplane {
namespace {

void Overlay(TrafficSettings& settings, const TrafficSettings& over) {
  if (over.load_balancer) settings.load_balancer = over.load_balancer;
  if (over.connection_pool) settings.connection_pool = over.connection_pool;
  if (over.outlier_detection) settings.outlier_detection = over.outlier_detection;
  if (over.tls) settings.tls = over.tls;
}

void Overlay(TrafficSettings& settings, const TrafficPolicy& policy, uint16_t port) {
  Overlay(settings, policy.settings);
  for (const auto& [number, over] : policy.ports) {
    if (number == port) Overlay(settings, over);
  }
}

}  // namespace

PortKind KindOf(const ServicePort& port) {
  switch (port.app_protocol) {
    case AppProtocol::kHttp1:
    case AppProtocol::kHttp2:
    case AppProtocol::kGrpc: return PortKind::kHttp;
    case AppProtocol::kTcp:
    case AppProtocol::kTls: return PortKind::kTcp;
    case AppProtocol::kUnknown: return PortKind::kEither;
  }
  return PortKind::kEither;
}

std::string ServedPort::HttpName() const {
  return envoy_names::InboundVip(port->port, true, "", service->hostname);
}

std::string ServedPort::TcpName() const {
  return envoy_names::InboundVip(port->port, false, "", service->hostname);
}

Scope::Scope(const World& world, const WaypointKey& waypoint) : world_(world), waypoint_(waypoint) {
  for (const std::string_view type : {kListenerType, kRouteType, kClusterType, kEndpointType}) {
    resources_[std::string(type)];
  }
  for (const Service* service : world.ServicesUsing(waypoint)) {
    served_.insert(service);
    for (const ServicePort& port : service->ports) {
      if (port.protocol != Protocol::kTcp) continue;  // ztunnels tunnel nothing else
      ports_.push_back({service, &port, KindOf(port)});
    }
  }
  std::sort(ports_.begin(), ports_.end(), [](const ServedPort& a, const ServedPort& b) {
    return std::tie(a.service->hostname, a.port->port) <
           std::tie(b.service->hostname, b.port->port);
  });
  for (const ServedPort& served : ports_) {
    std::vector<const Subset*> subsets = SubsetsOf(*served.service);
    subsets.push_back(nullptr);
    for (const Subset* subset : subsets) {
      for (const bool http : {true, false}) {
        if (served.kind == (http ? PortKind::kTcp : PortKind::kHttp)) continue;
        clusters_[envoy_names::InboundVip(served.port->port, http, subset ? subset->name : "",
                                          served.service->hostname)] = {served.service, served.port,
                                                                        subset, http};
      }
    }
  }
}

const std::vector<const DestinationRule*>& Scope::RulesOf(const Service& service) const {
  const auto known = rules_.find(&service);
  if (known != rules_.end()) return known->second;
  std::vector<const DestinationRule*> rules = world_.DestinationRulesFor(service);
  // Rules of the nearest namespace count; they are merged, those of other namespaces are not.
  if (!rules.empty()) {
    const std::string nearest = rules.front()->meta.ns;
    std::erase_if(rules, [&](const DestinationRule* rule) { return rule->meta.ns != nearest; });
  }
  return rules_.emplace(&service, std::move(rules)).first->second;
}

std::vector<const Subset*> Scope::SubsetsOf(const Service& service) const {
  std::map<std::string_view, const Subset*> by_name;
  for (const DestinationRule* rule : RulesOf(service)) {
    for (const Subset& subset : rule->subsets) by_name.emplace(subset.name, &subset);
  }
  std::vector<const Subset*> subsets;
  subsets.reserve(by_name.size());
  for (const auto& [name, subset] : by_name) subsets.push_back(subset);
  return subsets;
}

TrafficSettings Scope::SettingsOf(const ClusterSpec& spec) const {
  TrafficSettings settings;
  for (const DestinationRule* rule : RulesOf(*spec.service)) {
    if (!rule->policy) continue;
    Overlay(settings, *rule->policy, spec.port->port);
    break;
  }
  if (spec.subset && spec.subset->policy) {
    Overlay(settings, *spec.subset->policy, spec.port->port);
  }
  return settings;
}

std::string Scope::ClusterFor(const std::string& host, uint16_t port, const std::string& subset,
                              bool http, std::string* problem) {
  problem->clear();
  const Service* service = world_.FindServiceByHostname(host);
  const ServicePort* service_port = service ? service->FindPort(port) : nullptr;
  const Subset* found = nullptr;
  if (service) {
    for (const Subset* candidate : SubsetsOf(*service)) {
      if (candidate->name == subset) found = candidate;
    }
  }
  const bool inbound = service && Serves(*service);
  std::string name = inbound ? envoy_names::InboundVip(port, http, subset, host)
                             : envoy_names::Outbound(port, subset, host);
  if (!service) {
    *problem = "there is no Service " + host;
  } else if (!service_port) {
    *problem = "Service " + host + " has no port " + std::to_string(port);
  } else if (!subset.empty() && !found) {
    *problem = "no DestinationRule of " + host + " has a subset \"" + subset + "\"";
  } else {
    // Not there yet: another waypoint's or nobody's service, or an HTTP route to a TCP port.
    auto [it, made] = clusters_.try_emplace(name, ClusterSpec{service, service_port, found, http});
    it->second.http |= http;
  }
  return name;
}

void Scope::Tell(const ObjectMeta& object, int line, std::string reason, std::string message) {
  SourceLocation location = object.location;
  if (line != 0) location.line = line;
  notices_.insert(
      {object.kind, object.key(), std::move(location), std::move(reason), std::move(message)});
}

void Scope::Emit(std::string_view type_url, std::string name,
                 const google::protobuf::MessageLite& body) {
  Resource resource = MakeResource(type_url, name, {}, body);
  resources_[std::string(type_url)].insert_or_assign(std::move(name), std::move(resource));
}

WaypointConfig Scope::Take() { return {std::move(resources_), {notices_.begin(), notices_.end()}}; }

WaypointConfig BuildWaypoint(const World& world, const WaypointKey& waypoint) {
  Scope scope(world, waypoint);
  const Gateway* gateway = world.FindGateway(waypoint);
  if (gateway && !world.PodsUsing(waypoint).empty()) {
    scope.Tell(gateway->meta, 0, "UnsupportedValue",
               "this waypoint serves Services only, in this version: calls to the addresses of the "
               "pods that have chosen it are refused; use istio.io/waypoint-for: service and label "
               "Services");
  }
  EmitRoutes(scope);
  EmitListeners(scope);
  EmitClusters(scope);
  EmitEndpoints(scope);
  return scope.Take();
}

}  // namespace qanat::controlplane
