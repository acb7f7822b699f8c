// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/route/outbound.h"

#include <fmt/format.h>

#include <algorithm>

namespace qanat::ztunnel {
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
           const net::SocketAddress& destination, const lb::Random& random)
      : snapshot_(snapshot), source_(source), destination_(destination), random_(random) {}

  Route Make() {
    if (destination_.ip().is_loopback() && IsProxyPort(destination_.port())) {
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
    return Passthrough(nullptr);
  }

 private:
  Route Passthrough(model::ServicePtr service) {
    Route route;
    route.kind = Route::Kind::kPassthrough;
    route.to = route.target = destination_;
    route.service = std::move(service);
    return route;
  }

  Route ToWorkloadAddress(model::WorkloadPtr workload) {
    if (workload->waypoint && !IsWaypoint(source_, *workload->waypoint)) {
      return ToWaypoint(*workload->waypoint, nullptr);
    }
    return Direct({std::move(workload), destination_.ip(), destination_.port()}, nullptr);
  }

  Route ToService(model::ServicePtr service) {
    if (const auto* waypoint = WaypointOf(*service); waypoint && !IsWaypoint(source_, *waypoint)) {
      return ToWaypoint(*waypoint, service);
    }
    if (service->load_balancing.mode == model::LbMode::kPassthrough) {
      return Passthrough(std::move(service));
    }
    auto pick = lb::PickEndpoint(*service, snapshot_.EndpointsOf(*service), source_,
                                 destination_.port(), destination_.ip(), random_);
    if (pick.reason != Reason::kNone) {
      Route route = Refuse(pick.reason, std::move(pick.detail));
      route.service = std::move(service);
      return route;
    }
    return Direct(std::move(pick.target), std::move(service));
  }

  Route Direct(lb::Target target, model::ServicePtr service) {
    Route route = DirectTo(target);
    route.destination = std::move(target.workload);
    route.service = std::move(service);
    return route;
  }

  Route DirectTo(const lb::Target& target) {
    const model::Workload& workload = *target.workload;
    if (workload.network != source_.network) {
      return workload.network_gateway
                 ? Refuse(Reason::kUnsupported,
                          fmt::format("{} is in network {}; tunnels through a network gateway are "
                                      "not supported yet",
                                      workload.uid, workload.network))
                 : Refuse(Reason::kNoNetworkGateway,
                          fmt::format("{} is in network {}", workload.uid, workload.network));
    }
    if (!target.ip.is_set()) {
      return Refuse(Reason::kUnsupported,
                    fmt::format("{} is known by host name only ({}), which is not supported yet",
                                workload.uid, workload.hostname));
    }
    Route route;
    route.target = net::SocketAddress(target.ip, target.target_port);
    if (workload.protocol == model::TunnelProtocol::kNone) {
      route.kind = Route::Kind::kTcp;
      route.to = route.target;
      return route;
    }
    route.kind = Route::Kind::kHbone;
    route.to = net::SocketAddress(target.ip, 15008);
    route.authority = route.target.ToString();
    route.identities = {workload.identity().ToString()};
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
  bool IsWaypoint(const model::Workload& workload, const model::GatewayAddress& gateway) const {
    if (const auto* host = std::get_if<model::NamespacedHostname>(&gateway.destination)) {
      return workload.PortsOf(host->Key()) != nullptr;
    }
    const auto& address = std::get<model::NetworkAddress>(gateway.destination);
    if (workload.network == address.network && workload.HasAddress(address.ip)) return true;
    const auto service = snapshot_.ServiceByVip(address.network, address.ip, source_.ns);
    return service != nullptr && workload.PortsOf(service->Key()) != nullptr;
  }

  Route ToWaypoint(const model::GatewayAddress& gateway, model::ServicePtr service) {
    Route route = ToWaypointOf(gateway);
    route.service = std::move(service);
    return route;
  }

  Route ToWaypointOf(const model::GatewayAddress& gateway) {
    const auto unavailable = [&](std::string_view why) {
      return Refuse(Reason::kWaypointUnavailable,
                    fmt::format("waypoint {}: {}", gateway.ToString(), why));
    };
    model::ServicePtr service;
    lb::Target target;
    if (const auto* host = std::get_if<model::NamespacedHostname>(&gateway.destination)) {
      service = snapshot_.ServiceByKey(host->Key());
      if (service == nullptr) return unavailable("its service is not known");
    } else {
      const auto& address = std::get<model::NetworkAddress>(gateway.destination);
      target.workload = snapshot_.WorkloadByAddress(address.network, address.ip);
      target.ip = address.ip;
      target.target_port = gateway.hbone_port;
      if (target.workload == nullptr) {
        service = snapshot_.ServiceByVip(address.network, address.ip, source_.ns);
        if (service == nullptr) return unavailable("its address is not known");
      }
    }
    if (service != nullptr) {
      auto pick = PickWaypoint(*service, gateway.hbone_port);
      if (pick.reason != Reason::kNone) return unavailable(pick.detail);
      target = std::move(pick.target);
    }
    if (target.workload->network != source_.network) {
      return Refuse(Reason::kUnsupported,
                    fmt::format("waypoint {} is in another network", gateway.ToString()));
    }
    if (!target.ip.is_set()) return unavailable("it has no address");
    Route route;
    route.kind = Route::Kind::kHbone;
    route.via_waypoint = true;
    route.to = net::SocketAddress(target.ip, target.target_port);
    route.target = destination_;
    route.authority = destination_.ToString();  // the waypoint routes by what was asked for
    if (service != nullptr) route.identities = service->subject_alt_names;
    route.identities.push_back(target.workload->identity().ToString());
    route.destination = std::move(target.workload);
    return route;
  }

  // The tunnel port need not be among the service's ports; then it is the same on the pod.
  lb::Pick PickWaypoint(const model::Service& service, uint16_t port) {
    const auto& endpoints = snapshot_.EndpointsOf(service);
    if (service.FindPort(port) != nullptr ||
        std::any_of(endpoints.begin(), endpoints.end(), [&](const model::Endpoint& endpoint) {
          return lb::TargetPort(service, endpoint.ports, port) != 0;
        })) {
      return lb::PickEndpoint(service, endpoints, source_, port, destination_.ip(), random_);
    }
    model::Service with_port = service;
    with_port.ports.push_back({port, port});
    return lb::PickEndpoint(with_port, endpoints, source_, port, destination_.ip(), random_);
  }

  const state::MeshSnapshot& snapshot_;
  const model::Workload& source_;
  const net::SocketAddress& destination_;
  const lb::Random& random_;
};

}  // namespace

bool IsProxyPort(uint16_t port) { return port == 15001 || port == 15006 || port == 15008; }

std::string_view ToString(Route::Kind kind) {
  switch (kind) {
    case Route::Kind::kRefuse: return "refused";
    case Route::Kind::kPassthrough: return "passthrough";
    case Route::Kind::kTcp: return "tcp";
    case Route::Kind::kHbone: return "hbone";
  }
  return "";
}

Route DecideOutbound(const state::MeshSnapshot& snapshot, const model::Workload& source,
                     const net::SocketAddress& destination, const lb::Random& random) {
  return Decision(snapshot, source, destination, random).Make();
}

OnePass DecideOnePass(const Route& route, const PodPtr& destination_pod) {
  if (route.kind != Route::Kind::kHbone) return {nullptr, "not an HBONE route"};
  if (route.via_waypoint) return {nullptr, "a waypoint is on the way"};
  if (destination_pod == nullptr) return {nullptr, "the destination is not a pod of this node"};
  const model::Workload& workload = *route.destination;
  if (destination_pod->name != workload.name || destination_pod->ns != workload.ns ||
      destination_pod->service_account != workload.service_account) {
    return {nullptr, "node agent and control plane disagree on who the destination is"};
  }
  if (!destination_pod->HasAddress(route.target.ip())) {
    return {nullptr, "the destination's namespace does not have the address"};
  }
  if (IsProxyPort(route.target.port())) return {nullptr, "the target is a port of the proxy"};
  if (workload.application_tunnel) return {nullptr, "the destination wants an application tunnel"};
  return {destination_pod, {}};
}

}  // namespace qanat::ztunnel
