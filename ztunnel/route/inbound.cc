// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/route/inbound.h"

#include <fmt/format.h>

#include <charconv>

#include "common/lb/lb.h"
#include "ztunnel/route/outbound.h"
#include "ztunnel/telemetry/headers.h"

namespace qanat::ztunnel {
namespace {

using model::Reason;

InboundTarget Refuse(int status, Reason reason, std::string detail) {
  InboundTarget out;
  out.status = status;
  out.reason = reason;
  out.detail = std::move(detail);
  return out;
}

bool Names(const std::optional<model::GatewayAddress>& gateway, const state::MeshSnapshot& snapshot,
           const model::Workload& local) {
  if (!gateway) return false;
  if (const auto* host = std::get_if<model::NamespacedHostname>(&gateway->destination)) {
    return local.PortsOf(host->Key()) != nullptr;
  }
  const auto& address = std::get<model::NetworkAddress>(gateway->destination);
  if (address.network == local.network && local.HasAddress(address.ip)) return true;
  const auto service = snapshot.ServiceByVip(address.network, address.ip, local.ns);
  return service != nullptr && local.PortsOf(service->Key()) != nullptr;
}

bool IsWaypointOf(const model::Service& service, const state::MeshSnapshot& snapshot,
                  const model::Workload& local) {
  if (Names(service.waypoint, snapshot, local)) return true;
  for (const auto& weighted : service.weighted_waypoints) {
    if (Names(weighted.destination, snapshot, local)) return true;
  }
  return false;
}

bool IsWaypointFor(const net::IpAddress& ip, const state::MeshSnapshot& snapshot,
                   const model::Workload& local) {
  if (const auto workload = snapshot.WorkloadByAddress(local.network, ip)) {
    return Names(workload->waypoint, snapshot, local);
  }
  const auto service = snapshot.ServiceByVip(local.network, ip, local.ns);
  return service != nullptr && IsWaypointOf(*service, snapshot, local);
}

InboundTarget ForAddress(const state::MeshSnapshot& snapshot, const model::Workload& local,
                         const net::SocketAddress& tunnel, const net::SocketAddress& asked,
                         std::string_view forwarded) {
  if (asked.ip() != tunnel.ip() && !local.application_tunnel &&
      !IsWaypointFor(asked.ip(), snapshot, local)) {
    return Refuse(400, Reason::kDestinationMismatch,
                  fmt::format("CONNECT {} arrived at {}", asked.ToString(), tunnel.ToString()));
  }
  InboundTarget out;
  out.target = net::SocketAddress(tunnel.ip(), asked.port());
  if (const std::string host = ForwardedHost(forwarded); !host.empty()) {
    auto service = snapshot.ServiceByHostname(host, local.ns);
    if (service != nullptr && local.PortsOf(service->Key()) != nullptr) {
      out.service = std::move(service);
    }
  }
  return out;
}

InboundTarget ForHostname(const state::MeshSnapshot& snapshot, const model::Workload& local,
                          const net::SocketAddress& tunnel, std::string_view host, uint16_t port) {
  auto service = snapshot.ServiceByHostname(host, local.ns);
  if (service == nullptr) {
    return Refuse(503, Reason::kDestinationUnknown, fmt::format("service {} is not known", host));
  }
  const model::PortList* ports = local.PortsOf(service->Key());
  if (ports == nullptr && !local.application_tunnel && !IsWaypointOf(*service, snapshot, local)) {
    return Refuse(400, Reason::kDestinationMismatch,
                  fmt::format("{} is not an endpoint of {}", local.uid, service->Key()));
  }
  const uint16_t target = lb::TargetPort(*service, ports, port);
  if (target == 0) {
    return Refuse(503, Reason::kNoSuchPort, fmt::format("{} has no port {}", service->Key(), port));
  }
  InboundTarget out;
  out.target = net::SocketAddress(tunnel.ip(), target);
  out.service = std::move(service);
  return out;
}

}  // namespace

InboundTarget DecideInbound(const state::MeshSnapshot& snapshot, const model::Workload& local,
                            const net::SocketAddress& tunnel, std::string_view authority,
                            std::string_view forwarded) {
  InboundTarget out;
  if (auto address = net::SocketAddress::Parse(authority)) {
    out = ForAddress(snapshot, local, tunnel, *address, forwarded);
  } else {
    const size_t colon = authority.rfind(':');
    const char* const end = authority.data() + authority.size();
    uint16_t port = 0;
    std::from_chars_result parsed{};
    if (colon != std::string_view::npos) {
      parsed = std::from_chars(authority.data() + colon + 1, end, port);
    }
    if (colon == std::string_view::npos || colon == 0 || parsed.ec != std::errc() ||
        parsed.ptr != end) {
      return Refuse(400, Reason::kBadRequest,
                    fmt::format("authority \"{}\" is not host:port", authority.substr(0, 256)));
    }
    out = ForHostname(snapshot, local, tunnel, authority.substr(0, colon), port);
  }
  if (out.reason != Reason::kNone) return out;
  if (IsProxyPort(out.target.port()) || out.target.port() == 0) {
    out.status = 503;
    out.reason = Reason::kSelfCall;
    out.detail = fmt::format("{} is a port of the proxy", out.target.ToString());
    return out;
  }
  if (local.application_tunnel && local.application_tunnel->proxy_protocol) {
    return Refuse(503, Reason::kUnsupported,
                  "the workload wants PROXY protocol, which is not supported yet");
  }
  return out;
}

}  // namespace qanat::ztunnel
