// SPDX-License-Identifier: Apache-2.0
#include "common/route/required_waypoint.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/lb/lb.h"

namespace qanat::route {
namespace {

bool Serves(const model::Service& service, const model::PortList& ports, uint16_t target) {
  const auto leads_there = [&](const model::Port& port) {
    return lb::TargetPort(service, &ports, port.service_port) == target;
  };
  return std::any_of(ports.begin(), ports.end(), leads_there) ||
         std::any_of(service.ports.begin(), service.ports.end(), leads_there);
}

// Kubelet's probes in a stock CNI's pods come from this one address, which its rules let past the
// proxy anyway ([istio] cni: HOST_PROBE_SNAT_IP, HOST_PROBE_SNAT_IPV6).
bool IsNodeProbe(const Sender& sender) {
  static const net::IpAddress v4 =
      net::IpAddress::Parse("169.254.7.127").value_or(net::IpAddress());
  static const net::IpAddress v6 =
      net::IpAddress::Parse("fd16:9254:7127:1337:ffff:ffff:ffff:ffff").value_or(net::IpAddress());
  return !sender.identity && (sender.ip == v4 || sender.ip == v6);
}

// Without a copy: this runs for every incoming connection.
template <typename Visit>
bool AnyWaypointOf(const model::Service& service, Visit visit) {
  if (service.waypoint && visit(*service.waypoint)) return true;
  return std::any_of(service.weighted_waypoints.begin(), service.weighted_waypoints.end(),
                     [&](const auto& weighted) { return visit(weighted.destination); });
}

// Who asks for a waypoint on this port; "" when nobody does.
std::string Asks(const state::MeshSnapshot& snapshot, const model::Workload& local,
                 uint16_t target) {
  if (local.waypoint) {
    return fmt::format("{} accepts only what came through its waypoint {}", local.uid,
                       local.waypoint->ToString());
  }
  for (const auto& [key, ports] : local.services) {
    const auto service = snapshot.ServiceByKey(key);
    if (service == nullptr || !service->require_waypoint) continue;
    if (!Serves(*service, ports, target)) continue;
    return fmt::format("service {} accepts only what came through its waypoint{}", key,
                       AnyWaypointOf(*service, [](const auto&) { return true; })
                           ? ""
                           : ", and it has none (istio.io/use-waypoint)");
  }
  return {};
}

}  // namespace

RequiredWaypoint CheckRequiredWaypoint(const state::MeshSnapshot& snapshot,
                                       const model::Workload& local,
                                       const net::SocketAddress& target, const Sender& sender) {
  std::string who = Asks(snapshot, local, target.port());
  if (who.empty()) return {};
  if (IsNodeProbe(sender)) return {};
  if (sender.identity) {
    const auto is_sender = [&](const model::GatewayAddress& gateway) {
      return HasIdentity(snapshot, gateway, *sender.identity);
    };
    if (local.waypoint && is_sender(*local.waypoint)) return {};
    // What came through the waypoint of a service that this workload is part of did come through
    // the one that the routes give it.
    for (const auto& [key, ports] : local.services) {
      const auto service = snapshot.ServiceByKey(key);
      if (service != nullptr && AnyWaypointOf(*service, is_sender)) return {};
    }
    if (IsGateway(snapshot, local.network, sender)) return {};
  }
  return {model::Reason::kWaypointRequired,
          fmt::format("{}, and {} is not it", who,
                      sender.identity ? sender.identity->ToString() : "a caller in plaintext")};
}

}  // namespace qanat::route
