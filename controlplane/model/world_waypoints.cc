// SPDX-License-Identifier: Apache-2.0
// Which Gateways are waypoints, for which traffic, and which waypoint a service or pod has.
#include <set>

#include "controlplane/model/world.h"

namespace qanat::controlplane {
namespace {

constexpr std::string_view kGatewayName = "gateway.networking.k8s.io/gateway-name";
constexpr std::string_view kUseWaypoint = "istio.io/use-waypoint";
constexpr std::string_view kUseWaypointNamespace = "istio.io/use-waypoint-namespace";
constexpr std::string_view kWaypointFor = "istio.io/waypoint-for";
constexpr uint16_t kHbonePort = 15008;

}  // namespace

// In a cluster a controller makes a Service for each waypoint Gateway. Where none has, this World
// acts as if: node proxies know a waypoint by its service host name.
void World::MakeWaypointServices() {
  std::set<NamespacedName> have;
  for (const Service& service : objects_.services) have.insert(service.meta.key());
  std::set<net::IpAddress> pod_ips;
  for (const Pod& pod : objects_.pods) pod_ips.insert(pod.ips.begin(), pod.ips.end());
  for (const Gateway& gateway : objects_.gateways) {
    if (!IsWaypoint(gateway) || have.contains(gateway.meta.key())) continue;
    Service service;
    service.meta.api_version = "v1";
    service.meta.kind = "Service";
    service.meta.name = gateway.meta.name;
    service.meta.ns = gateway.meta.ns;
    service.meta.labels["gateway.istio.io/managed"] = "istio.io-mesh-controller";
    service.meta.location = gateway.meta.location;
    service.selector[std::string(kGatewayName)] = gateway.meta.name;
    service.synthetic = true;
    for (const std::string& text : gateway.status_addresses) {
      const Result<net::IpAddress> ip = net::IpAddress::Parse(text);
      // A pod's own address is no VIP: it would make two owners of one address.
      if (ip && !pod_ips.contains(*ip)) service.cluster_ips.push_back(*ip);
    }
    service.headless = service.cluster_ips.empty();
    std::set<uint16_t> seen;
    for (const Gateway::Listener& listener : gateway.listeners) {
      if (listener.port == 0 || !seen.insert(listener.port).second) continue;
      ServicePort port;
      port.name = listener.name;
      port.port = listener.port;
      port.target.number = listener.port;
      service.ports.push_back(std::move(port));
    }
    if (seen.insert(kHbonePort).second) {
      ServicePort port;
      port.name = "mesh";
      port.port = kHbonePort;
      port.target.number = kHbonePort;
      service.ports.push_back(std::move(port));
    }
    objects_.services.push_back(std::move(service));
  }
}

bool World::NativeTunnel(const Pod& pod) const {
  if (const std::string* tunnel = pod.meta.Label("networking.istio.io/tunnel")) {
    if (*tunnel == "http") return true;
  }
  const std::string* name = pod.meta.Label(kGatewayName);
  const Gateway* gateway = name == nullptr ? nullptr : FindGateway({pod.meta.ns, *name});
  return gateway != nullptr && IsWaypoint(*gateway);
}

bool World::IsWaypoint(const Gateway& gateway) const {
  if (gateway.class_name == "istio-waypoint" || gateway.class_name == "qanat-waypoint") return true;
  for (const GatewayClass& c : objects_.gateway_classes) {
    if (c.meta.name == gateway.class_name) {
      return c.controller == "istio.io/mesh-controller" ||
             c.controller == "qanat.io/mesh-controller";
    }
  }
  return false;
}

WaypointFor World::TrafficOf(const Gateway& gateway) const {
  const std::string* label = gateway.meta.Label(kWaypointFor);
  for (const GatewayClass& c : objects_.gateway_classes) {
    if (label == nullptr && c.meta.name == gateway.class_name) label = c.meta.Label(kWaypointFor);
  }
  if (label == nullptr || *label == "service") return WaypointFor::kService;
  if (*label == "workload") return WaypointFor::kWorkload;
  if (*label == "all") return WaypointFor::kAll;
  if (*label == "none") return WaypointFor::kNone;
  return WaypointFor::kService;
}

WaypointRef World::ResolveWaypoint(const ObjectMeta& object, bool for_service) const {
  using State = WaypointRef::State;
  WaypointRef ref;
  const std::string* name = object.Label(kUseWaypoint);
  const std::string* ns = object.Label(kUseWaypointNamespace);
  if (name == nullptr) {
    name = NamespaceLabel(object.ns, kUseWaypoint);
    ns = NamespaceLabel(object.ns, kUseWaypointNamespace);
    ref.named_by_namespace = true;
  }
  if (name == nullptr || name->empty() || *name == "none") return {};
  ref.gateway = {ns == nullptr || ns->empty() ? object.ns : *ns, *name};
  ref.hostname = ServiceHostname(ref.gateway);
  const Gateway* gateway = FindGateway(ref.gateway);
  if (gateway == nullptr) {
    // What it would be for is not known: the default, services; a pod's own label says more.
    ref.state = for_service || !ref.named_by_namespace ? State::kMissing : State::kWrongTraffic;
    return ref;
  }
  if (!IsWaypoint(*gateway)) {
    ref.state =
        for_service || !ref.named_by_namespace ? State::kNotAWaypoint : State::kWrongTraffic;
    return ref;
  }
  const WaypointFor traffic = TrafficOf(*gateway);
  const WaypointFor wanted = for_service ? WaypointFor::kService : WaypointFor::kWorkload;
  if (traffic != wanted && traffic != WaypointFor::kAll) {
    ref.state = State::kWrongTraffic;
    return ref;
  }
  bool allowed = ref.gateway.ns == object.ns;
  for (const Gateway::Listener& listener : gateway->listeners) {
    if (allowed || listener.protocol != "HBONE") continue;
    const Namespace* own = FindNamespace(object.ns);
    switch (listener.from) {
      case Gateway::From::kAll: allowed = true; break;
      case Gateway::From::kSelector:
        allowed = own != nullptr && listener.from_selector.Matches(own->meta.labels);
        break;
      case Gateway::From::kSame:
      case Gateway::From::kNone: break;
    }
  }
  if (!allowed) {
    ref.state = State::kNotAllowed;
  } else {
    ref.state = gateway->status_addresses.empty() ? State::kNotReady : State::kReady;
  }
  return ref;
}

WaypointRef World::WaypointOf(const Service& service) const {
  if (service.synthetic || service.type == Service::Type::kExternalName) return {};
  // A waypoint's own service has none: requests would go round in circles.
  const std::string* managed = service.meta.Label("gateway.istio.io/managed");
  if (managed != nullptr && *managed == "istio.io-mesh-controller") return {};
  const auto by_selector = service.selector.find(std::string(kGatewayName));
  if (by_selector != service.selector.end()) {
    const Gateway* gateway = FindGateway({service.meta.ns, by_selector->second});
    if (gateway != nullptr && IsWaypoint(*gateway)) return {};
  }
  return ResolveWaypoint(service.meta, true);
}

WaypointRef World::WaypointOf(const Pod& pod) const {
  if (pod.host_network || NativeTunnel(pod)) return {};
  return ResolveWaypoint(pod.meta, false);
}

std::vector<const Service*> World::ServicesUsing(const WaypointKey& waypoint) const {
  const auto it = services_by_waypoint_.find(waypoint);
  return it == services_by_waypoint_.end() ? std::vector<const Service*>() : it->second;
}

std::vector<const Pod*> World::PodsUsing(const WaypointKey& waypoint) const {
  const auto it = pods_by_waypoint_.find(waypoint);
  return it == pods_by_waypoint_.end() ? std::vector<const Pod*>() : it->second;
}

}  // namespace qanat::controlplane
