// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/route/inbound.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "common/lb/lb.h"
#include "common/route/outbound.h"
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

bool Names(const model::GatewayAddress& gateway, const state::MeshSnapshot& snapshot,
           const model::Workload& local) {
  if (const auto* host = std::get_if<model::NamespacedHostname>(&gateway.destination)) {
    return local.PortsOf(host->Key()) != nullptr;
  }
  const auto& address = std::get<model::NetworkAddress>(gateway.destination);
  if (address.network == local.network && local.HasAddress(address.ip)) return true;
  const auto service = snapshot.ServiceByVip(address.network, address.ip, local.ns);
  return service != nullptr && local.PortsOf(service->Key()) != nullptr;
}

bool IsWaypointOf(const model::Service& service, const state::MeshSnapshot& snapshot,
                  const model::Workload& local) {
  if (service.waypoint && Names(*service.waypoint, snapshot, local)) return true;
  for (const auto& weighted : service.weighted_waypoints) {
    if (Names(weighted.destination, snapshot, local)) return true;
  }
  return false;
}

bool IsWaypointFor(const net::IpAddress& ip, const state::MeshSnapshot& snapshot,
                   const model::Workload& local) {
  if (const auto workload = snapshot.WorkloadByAddress(local.network, ip)) {
    return workload->waypoint && Names(*workload->waypoint, snapshot, local);
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
  out.proxy_destination = asked;
  if (const std::string host = ForwardedHost(forwarded); !host.empty()) {
    auto service = snapshot.ServiceByHostname(host, local.ns);
    if (service != nullptr && local.PortsOf(service->Key()) != nullptr) {
      out.service = std::move(service);
    }
  }
  return out;
}

// The address by which a PROXY header names a service: one of our own network before others, IPv4
// before IPv6 (stock ztunnel).
net::IpAddress AddressOf(const model::Service& service, const std::string& network) {
  net::IpAddress best;
  int best_score = -1;
  for (const model::ServiceAddress& address : service.addresses) {
    if (!address.host) continue;
    const int score = (address.network == network ? 2 : 0) + (address.cidr.ip().is_v4() ? 1 : 0);
    if (score <= best_score) continue;
    best = address.cidr.ip();
    best_score = score;
  }
  return best;
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
  uint16_t target = lb::TargetPort(*service, ports, port);
  // Behind a PROXY tunnel every port of the service that it stands for is served.
  if (target == 0 && local.application_tunnel) target = port;
  if (target == 0) {
    return Refuse(503, Reason::kNoSuchPort, fmt::format("{} has no port {}", service->Key(), port));
  }
  InboundTarget out;
  out.target = net::SocketAddress(tunnel.ip(), target);
  const net::IpAddress vip = AddressOf(*service, local.network);
  out.proxy_destination = vip.is_set() ? net::SocketAddress(vip, port) : out.target;
  out.proxy_hostname = host;
  out.service = std::move(service);
  return out;
}

net::IpAddress LoopbackOf(const net::IpAddress& ip) {
  if (ip.is_v4()) return net::IpAddress::V4(0x7f000001);
  const std::array<uint8_t, 16> one = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  return net::IpAddress::FromBytes(one);
}

InboundTarget SelfCall(InboundTarget out, const net::SocketAddress& port) {
  out.status = 503;
  out.reason = Reason::kSelfCall;
  out.detail = fmt::format("{} is a port of the proxy", port.ToString());
  return out;
}

}  // namespace

InboundTarget DecideInbound(const state::MeshSnapshot& snapshot, const model::Workload& local,
                            const net::SocketAddress& tunnel, std::string_view authority,
                            std::string_view forwarded, const InboundOptions& options) {
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
    // Brackets and further colons: an IPv6 address that is none, not the name of a service.
    if (colon == std::string_view::npos || colon == 0 || parsed.ec != std::errc() ||
        parsed.ptr != end || authority.substr(0, colon).find_first_of("[]:") != authority.npos) {
      return Refuse(400, Reason::kBadRequest,
                    fmt::format("authority \"{}\" is not host:port", authority.substr(0, 256)));
    }
    out = ForHostname(snapshot, local, tunnel, authority.substr(0, colon), port);
  }
  if (out.reason != Reason::kNone) return out;
  if (out.target.port() == 0) {
    return Refuse(400, Reason::kBadRequest,
                  fmt::format("authority \"{}\" has no port that one can connect to", authority));
  }
  if (route::IsProxyPort(out.target.port(), options.socks)) {
    const net::SocketAddress port = out.target;
    return SelfCall(std::move(out), port);
  }
  out.connect = out.target;
  if (local.application_tunnel) {
    // workload.proto: the port is where traffic goes in the end, whatever is or is not put before
    // it. Only what knows the caller from a PROXY header is looked for at loopback.
    out.proxy_protocol = local.application_tunnel->proxy_protocol;
    const bool loopback = out.proxy_protocol && options.localhost_app_tunnel;
    const uint16_t port = local.application_tunnel->port;
    out.connect = net::SocketAddress(loopback ? LoopbackOf(tunnel.ip()) : tunnel.ip(),
                                     port == 0 ? out.target.port() : port);
    if (route::IsProxyPort(port, options.socks)) {
      const net::SocketAddress tunnel_port = out.connect;
      return SelfCall(std::move(out), tunnel_port);
    }
  }
  return out;
}

}  // namespace qanat::ztunnel
