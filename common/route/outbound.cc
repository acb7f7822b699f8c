// SPDX-License-Identifier: Apache-2.0
#include "common/route/outbound.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/lb/draw.h"
#include "common/route/on_demand.h"

namespace qanat::route {
namespace {

using model::Reason;

Route Refuse(Reason reason, std::string detail) {
  Route route;
  route.reason = reason;
  route.detail = std::move(detail);
  return route;
}

class Decision {
 public:
  Decision(const state::MeshSnapshot& snapshot, const model::Workload& source,
           const net::SocketAddress& destination, const lb::Random& random,
           const OutboundOptions& options)
      : snapshot_(snapshot),
        source_(source),
        destination_(destination),
        random_(random),
        options_(options) {}

  Route Make() {
    if (destination_.ip().is_loopback() && IsProxyPort(destination_.port(), options_.socks)) {
      return Refuse(Reason::kSelfCall,
                    fmt::format("{} is a port of the proxy", destination_.ToString()));
    }
    // A workload's address before a service's (stock ztunnel). Headless services come here: their
    // names resolve to pod addresses.
    if (auto workload = snapshot_.WorkloadByAddress(source_.network, destination_.ip())) {
      return ToWorkloadAddress(std::move(workload));
    }
    if (auto service = snapshot_.ServiceByVip(source_.network, destination_.ip(), source_.ns)) {
      return ToService(std::move(service));
    }
    const net::IpAddress& ip = destination_.ip();
    if (!ip.is_loopback() && !ip.is_link_local()) Missing(NameOf(source_.network, ip));
    return Passthrough(nullptr);
  }

 private:
  void Missing(std::string name) {
    if (options_.missing == nullptr || snapshot_.Absent(name)) return;
    options_.missing->push_back(std::move(name));
  }

  Route Passthrough(model::ServicePtr service) {
    Route route;
    route.kind = Route::Kind::kPassthrough;
    route.to = route.target = destination_;
    route.service = std::move(service);
    return route;
  }

  Route ToWorkloadAddress(model::WorkloadPtr workload) {
    if (workload->waypoint && !IsWaypoint(source_, *workload->waypoint)) {
      return ToWaypoint(*workload->waypoint, nullptr, destination_);
    }
    return Direct({std::move(workload), destination_.ip(), destination_.port()}, nullptr);
  }

  Route ToService(model::ServicePtr service) {
    if (const auto* waypoint = WaypointOf(*service); waypoint && !IsWaypoint(source_, *waypoint)) {
      return ToWaypoint(*waypoint, service, destination_);
    }
    if (service->load_balancing.mode == model::LbMode::kPassthrough) {
      return Passthrough(std::move(service));
    }
    auto pick = Pick(service, destination_.port());
    if (pick.reason != Reason::kNone) {
      Route route = Refuse(pick.reason, std::move(pick.detail));
      route.service = std::move(service);
      return route;
    }
    const model::Workload& picked = *pick.target.workload;
    if (options_.waypoints_of_endpoints && picked.waypoint && pick.target.ip.is_set() &&
        picked.network == source_.network && WaypointOf(*service) == nullptr &&
        !IsWaypoint(source_, *picked.waypoint)) {
      return ToWaypoint(*picked.waypoint, std::move(service),
                        net::SocketAddress(pick.target.ip, pick.target.target_port));
    }
    return Direct(std::move(pick.target), std::move(service));
  }

  lb::Pick Pick(const model::ServicePtr& service, uint16_t port) {
    if (options_.drawn != 0) {
      auto drawn = lb::PickDrawn(*service, snapshot_.EndpointsOf(*service), source_, port,
                                 destination_.ip(), options_.drawn, options_.avoid);
      if (drawn) return std::move(*drawn);
    }
    if (options_.picks != nullptr) {
      return options_.picks->PickEndpoint(service, snapshot_.EndpointListOf(*service), source_,
                                          port, destination_.ip(), random_, options_.avoid);
    }
    return lb::PickEndpoint(*service, snapshot_.EndpointsOf(*service), source_, port,
                            destination_.ip(), random_, options_.avoid);
  }

  Route Direct(lb::Target target, model::ServicePtr service) {
    Route route = target.workload->network != source_.network
                      ? ThroughGateway(*target.workload, service.get(),
                                       service == nullptr || service->subject_alt_names.empty()
                                           ? IdentitiesOf(*target.workload)
                                           : service->subject_alt_names.whole())
                      : DirectTo(target);
    if (service != nullptr) route.picked_port = target.target_port;
    route.destination = std::move(target.workload);
    route.service = std::move(service);
    return route;
  }

  Route DirectTo(const lb::Target& target) {
    const model::Workload& workload = *target.workload;
    Route route;
    route.kind = Route::Kind::kTcp;
    if (workload.protocol != model::TunnelProtocol::kNone) {
      route.kind = Route::Kind::kHbone;
      route.identities = {workload.identity().ToString()};
    }
    if (target.ip.is_set()) {
      route.Resolved(target.ip, target.target_port);
    } else {
      route.host = workload.hostname;
    }
    return route;
  }

  // ---- other networks

  static std::vector<std::string> IdentitiesOf(const model::Workload& workload) {
    return {workload.identity().ToString()};
  }

  // Only what was asked for as a service can be named over there.
  Route ThroughGateway(const model::Workload& far, const model::Service* service,
                       std::vector<std::string> inner_identities) {
    const auto refuse = [&](std::string_view why) {
      return Refuse(Reason::kNoNetworkGateway,
                    fmt::format("{} is in network {}: {}", far.uid, far.network, why));
    };
    if (!far.network_gateway) return refuse("no gateway to it is known");
    if (service == nullptr) return refuse("only services can be called there");
    Gateway gateway = ResolveGateway(*far.network_gateway);
    if (!gateway.why_not.empty()) {
      return refuse(
          fmt::format("its gateway {}: {}", far.network_gateway->ToString(), gateway.why_not));
    }
    if (!gateway.to.ip().is_set() && gateway.host.empty()) {
      return refuse("its gateway has no address here");
    }
    Route route;
    route.kind = Route::Kind::kDoubleHbone;
    route.to = gateway.to;
    route.host = std::move(gateway.host);
    route.authority = fmt::format("{}:{}", service->hostname, destination_.port());
    route.identities = std::move(gateway.identities);
    route.inner_identities = std::move(inner_identities);
    return route;
  }

  // ---- waypoints
  const model::GatewayAddress* WaypointOf(const model::Service& service) {
    if (!service.weighted_waypoints.empty()) {
      std::vector<uint32_t> weights;
      for (const auto& weighted : service.weighted_waypoints) weights.push_back(weighted.weight);
      const int picked = lb::PickWeighted(weights, random_());
      if (picked >= 0) {
        return &service.weighted_waypoints[static_cast<size_t>(picked)].destination;
      }
    }
    return service.waypoint ? &*service.waypoint : nullptr;
  }

  // The waypoint's own traffic must not be sent back to it. Identity and place both count: anybody
  // may run under the waypoint's service account elsewhere.
  bool IsWaypoint(const model::Workload& workload, const model::GatewayAddress& gateway) {
    if (const auto* host = std::get_if<model::NamespacedHostname>(&gateway.destination)) {
      return workload.PortsOf(host->Key()) != nullptr;
    }
    const auto& address = std::get<model::NetworkAddress>(gateway.destination);
    if (workload.network == address.network && workload.HasAddress(address.ip)) return true;
    const auto service = snapshot_.ServiceByVip(address.network, address.ip, source_.ns);
    if (service == nullptr && snapshot_.WorkloadByAddress(address.network, address.ip) == nullptr) {
      Missing(NameOf(gateway));
    }
    return service != nullptr && workload.PortsOf(service->Key()) != nullptr;
  }

  // `asked`: what the waypoint routes by.
  Route ToWaypoint(const model::GatewayAddress& address, model::ServicePtr service,
                   const net::SocketAddress& asked) {
    Gateway gateway = ResolveGateway(address);
    Route route;
    if (!gateway.why_not.empty()) {
      route = Refuse(Reason::kWaypointUnavailable,
                     fmt::format("waypoint {}: {}", address.ToString(), gateway.why_not));
    } else if (gateway.workload->network != source_.network) {
      // The far network's gateway gives a call of the service to its waypoint.
      route = ThroughGateway(*gateway.workload, service.get(), std::move(gateway.identities));
    } else {
      route.kind = Route::Kind::kHbone;
      route.to = gateway.to;
      route.host = std::move(gateway.host);
      route.target = asked;
      route.authority = asked.ToString();
      route.identities = std::move(gateway.identities);
    }
    if (route.kind != Route::Kind::kRefuse) {
      route.via_waypoint = true;
      route.picked_port = gateway.to.port();
      route.destination = std::move(gateway.workload);
    }
    route.service = std::move(service);
    return route;
  }

  // A waypoint, or the gateway of another network.
  struct Gateway {
    std::string why_not;  // it cannot be used
    model::WorkloadPtr workload;
    net::SocketAddress to;
    std::string host;  // in place of `to`'s address
    std::vector<std::string> identities;
  };

  Gateway ResolveGateway(const model::GatewayAddress& gateway) {
    const auto unusable = [](std::string why) {
      Gateway out;
      out.why_not = std::move(why);
      return out;
    };
    model::ServicePtr service;
    lb::Target target;
    if (const auto* host = std::get_if<model::NamespacedHostname>(&gateway.destination)) {
      service = snapshot_.ServiceByKey(host->Key());
      if (service == nullptr) {
        Missing(NameOf(gateway));
        return unusable("its service is not known");
      }
    } else {
      const auto& address = std::get<model::NetworkAddress>(gateway.destination);
      target.workload = snapshot_.WorkloadByAddress(address.network, address.ip);
      target.ip = address.ip;
      target.target_port = gateway.hbone_port;
      if (target.workload != nullptr && options_.avoid.Tried(*target.workload)) {
        return unusable("it has been tried");
      }
      if (target.workload == nullptr) {
        service = snapshot_.ServiceByVip(address.network, address.ip, source_.ns);
        if (service == nullptr) {
          Missing(NameOf(gateway));
          return unusable("its address is not known");
        }
      }
    }
    if (service != nullptr) {
      auto pick = PickWaypoint(*service, gateway.hbone_port);
      if (pick.reason != Reason::kNone) return unusable(std::move(pick.detail));
      target = std::move(pick.target);
    }
    Gateway out;
    const bool behind_gateway =
        target.workload->network != source_.network && target.workload->network_gateway.has_value();
    if (!target.ip.is_set()) out.host = target.workload->hostname;
    if (!target.ip.is_set() && out.host.empty() && !behind_gateway) {
      return unusable("it has no address");
    }
    out.to = net::SocketAddress(target.ip, target.target_port);
    if (service != nullptr) out.identities = service->subject_alt_names.whole();
    out.identities.push_back(target.workload->identity().ToString());
    out.workload = std::move(target.workload);
    return out;
  }

  // The tunnel port need not be among the service's ports; then it is the same on the pod.
  lb::Pick PickWaypoint(const model::Service& service, uint16_t port) {
    const auto& endpoints = snapshot_.EndpointsOf(service);
    if (service.FindPort(port) != nullptr ||
        std::any_of(endpoints.begin(), endpoints.end(), [&](const model::Endpoint& endpoint) {
          return lb::TargetPort(service, endpoint.ports, port) != 0;
        })) {
      return lb::PickEndpoint(service, endpoints, source_, port, destination_.ip(), random_,
                              options_.avoid);
    }
    model::Service with_port = service;
    with_port.ports.push_back({port, port});
    return lb::PickEndpoint(with_port, endpoints, source_, port, destination_.ip(), random_,
                            options_.avoid);
  }

  const state::MeshSnapshot& snapshot_;
  const model::Workload& source_;
  const net::SocketAddress& destination_;
  const lb::Random& random_;
  const OutboundOptions& options_;
};

}  // namespace

bool IsProxyPort(uint16_t port, bool socks) {
  return port == 15001 || port == 15006 || port == 15008 || (socks && port == 15080);
}

void Route::Resolved(const net::IpAddress& ip, uint16_t port) {
  host.clear();
  if (via_waypoint || kind == Kind::kDoubleHbone) {
    to = net::SocketAddress(ip, to.port());
    return;
  }
  target = net::SocketAddress(ip, port);
  to = target;
  if (kind != Kind::kHbone) return;
  to = net::SocketAddress(ip, 15008);
  authority = target.ToString();
}

std::string_view ToString(Route::Kind kind) {
  switch (kind) {
    case Route::Kind::kRefuse: return "refused";
    case Route::Kind::kPassthrough: return "passthrough";
    case Route::Kind::kTcp: return "tcp";
    case Route::Kind::kHbone: return "hbone";
    case Route::Kind::kDoubleHbone: return "double-hbone";
  }
  return "";
}

Route DecideOutbound(const state::MeshSnapshot& snapshot, const model::Workload& source,
                     const net::SocketAddress& destination, const lb::Random& random,
                     const OutboundOptions& options) {
  Route route = Decision(snapshot, source, destination, random, options).Make();
  route.source_encrypts = source.encrypt;
  return route;
}

OnePass DecideOnePass(const Route& route, const PodFacts* destination_pod) {
  if (route.kind != Route::Kind::kHbone) return {false, "not an HBONE route"};
  if (route.via_waypoint) return {false, "a waypoint is on the way"};
  if (!route.host.empty()) return {false, "the destination is known by name only"};
  if (destination_pod == nullptr) return {false, "the destination is not a pod of this node"};
  const model::Workload& workload = *route.destination;
  if (destination_pod->name != workload.name() || destination_pod->ns != workload.ns ||
      destination_pod->service_account != workload.service_account) {
    return {false, "node agent and control plane disagree on who the destination is"};
  }
  if (!destination_pod->HasAddress(route.target.ip())) {
    return {false, "the destination's namespace does not have the address"};
  }
  if (IsProxyPort(route.target.port())) return {false, "the target is a port of the proxy"};
  if (workload.application_tunnel) return {false, "the destination wants an application tunnel"};
  if (route.source_encrypts || workload.encrypt) {
    return {false, fmt::format("the {} asks for encryption (qanat.io/same-node)",
                               workload.encrypt ? "destination" : "source")};
  }
  return {true, {}};
}

}  // namespace qanat::route
