// SPDX-License-Identifier: Apache-2.0
// Workloads and services. Policies are in decode_policy.cc.
#include "common/state/decode.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "common/proto/workload.pb.h"

namespace qanat::state {
namespace {

namespace wire = istio::workload;

net::IpAddress ToIp(const std::string& bytes) {
  return net::IpAddress::FromBytes({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
}

std::string_view OrDefault(const std::string& value, std::string_view fallback) {
  return value.empty() ? fallback : std::string_view(value);
}

std::vector<std::string> ToList(const google::protobuf::RepeatedPtrField<std::string>& texts) {
  return {texts.begin(), texts.end()};
}

Status PortInRange(uint32_t port, const char* what) {
  if (port <= 65535) return {};
  return Fail(Code::kInvalidArgument, fmt::format("{} {} is not a port (0 to 65535)", what, port));
}

Result<model::PortList> ToPorts(const google::protobuf::RepeatedPtrField<wire::Port>& ports) {
  model::PortList out;
  out.reserve(static_cast<size_t>(ports.size()));
  for (const wire::Port& port : ports) {
    QANAT_RETURN_IF_ERROR(PortInRange(port.service_port(), "service_port"));
    QANAT_RETURN_IF_ERROR(PortInRange(port.target_port(), "target_port"));
    const auto protocol = port.app_protocol() <= wire::AppProtocol::TLS && port.app_protocol() >= 0
                              ? static_cast<model::AppProtocol>(port.app_protocol())
                              : model::AppProtocol::kUnknown;
    out.push_back({static_cast<uint16_t>(port.service_port()),
                   static_cast<uint16_t>(port.target_port()), protocol});
  }
  return out;
}

Result<model::GatewayAddress> ToGateway(const wire::GatewayAddress& gateway, const char* what) {
  model::GatewayAddress out;
  QANAT_RETURN_IF_ERROR(PortInRange(gateway.hbone_mtls_port(), "hbone_mtls_port"));
  out.hbone_port = static_cast<uint16_t>(gateway.hbone_mtls_port());
  if (out.hbone_port == 0) out.hbone_port = 15008;
  switch (gateway.destination_case()) {
    case wire::GatewayAddress::kHostname:
      out.destination =
          model::NamespacedHostname{gateway.hostname().namespace_(), gateway.hostname().hostname()};
      return out;
    case wire::GatewayAddress::kAddress: {
      const net::IpAddress ip = ToIp(gateway.address().address());
      if (!ip.is_set()) break;
      out.destination = model::NetworkAddress{gateway.address().network(), ip};
      return out;
    }
    case wire::GatewayAddress::DESTINATION_NOT_SET: break;
  }
  // Without the gateway traffic would go around it, so the resource is refused.
  return Fail(Code::kInvalidArgument, fmt::format("{} has no usable destination", what));
}

Result<model::ServiceAddress> ToServiceAddress(const wire::NetworkAddress& address) {
  const net::IpAddress ip = ToIp(address.address());
  if (!ip.is_set()) {
    return Fail(
        Code::kInvalidArgument,
        fmt::format("a service address has {} bytes instead of 4 or 16", address.address().size()));
  }
  const unsigned host = address.address().size() == 4 ? 32 : 128;
  unsigned length = address.has_length() ? address.length() : host;
  const bool mapped = host == 128 && ip.is_v4();  // ::ffff:a.b.c.d/96+n is a.b.c.d/n
  if (mapped && length < 96) return Fail(Code::kInvalidArgument, "a mapped block is too wide");
  if (mapped) length -= 96;
  QANAT_ASSIGN_OR_RETURN(const net::Cidr cidr, net::Cidr::Make(ip, length));
  return model::ServiceAddress{address.network(), cidr, length == (ip.is_v4() ? 32u : 128u)};
}

model::LoadBalancing ToLoadBalancing(const wire::LoadBalancing& lb) {
  model::LoadBalancing out;
  std::vector<model::LbScope> preference;
  for (const int scope : lb.routing_preference()) {
    preference.push_back(wire::LoadBalancing_Scope_IsValid(scope)
                             ? static_cast<model::LbScope>(scope)
                             : model::LbScope::kUnspecified);
  }
  out.routing_preference = std::move(preference);
  if (wire::LoadBalancing_Mode_IsValid(lb.mode())) {
    out.mode = static_cast<model::LbMode>(lb.mode());
  }
  out.allow_unhealthy = lb.health_policy() == wire::LoadBalancing::ALLOW_ALL;
  return out;
}

// Extensions of ours, which stock proxies pass over; the name alone says it.
template <typename Message>
bool HasExtension(const Message& in, std::string_view name) {
  return std::any_of(in.extensions().begin(), in.extensions().end(),
                     [name](const auto& extension) { return extension.name() == name; });
}

Result<model::Service> ToService(const wire::Service& in) {
  model::Service out;
  out.name = in.name();
  out.ns = in.namespace_();
  out.hostname = in.hostname();
  if (out.hostname.empty()) return Fail(Code::kInvalidArgument, "a service without a hostname");
  if (out.ns.str().find('/') != std::string::npos) {  // a key is "namespace/hostname"
    return Fail(Code::kInvalidArgument,
                "a service in namespace \"" + out.ns.str() + "\": it has a slash");
  }
  std::vector<model::ServiceAddress> addresses;
  for (const auto& address : in.addresses()) {
    QANAT_ASSIGN_OR_RETURN(auto converted, ToServiceAddress(address));
    addresses.push_back(std::move(converted));
  }
  out.addresses = std::move(addresses);
  QANAT_ASSIGN_OR_RETURN(out.ports, ToPorts(in.ports()));
  out.subject_alt_names = ToList(in.subject_alt_names());
  if (in.has_waypoint()) {
    QANAT_ASSIGN_OR_RETURN(out.waypoint, ToGateway(in.waypoint(), "waypoint"));
  }
  std::vector<model::WeightedWaypoint> weighted_waypoints;
  for (const auto& weighted : in.weighted_waypoints()) {
    QANAT_ASSIGN_OR_RETURN(auto gateway, ToGateway(weighted.destination(), "weighted waypoint"));
    weighted_waypoints.push_back({std::move(gateway), weighted.weight()});
  }
  out.weighted_waypoints = std::move(weighted_waypoints);
  out.load_balancing = ToLoadBalancing(in.load_balancing());
  if (wire::IPFamilies_IsValid(in.ip_families())) {
    out.ip_families = static_cast<model::IpFamilies>(in.ip_families());
  }
  out.canonical = in.canonical();
  out.ingress_use_waypoint = in.ingress_use_waypoint();
  // Whatever is not PUBLIC, also a kind that we do not know, is shown to the namespace only.
  out.namespace_only = in.visibility() != wire::Service::PUBLIC;
  out.require_waypoint = HasExtension(in, "qanat.io/require-waypoint");
  return out;
}

Result<model::TunnelProtocol> ToProtocol(wire::TunnelProtocol protocol) {
  switch (protocol) {
    case wire::TunnelProtocol::NONE: return model::TunnelProtocol::kNone;
    case wire::TunnelProtocol::HBONE: return model::TunnelProtocol::kHbone;
    default: break;  // an open proto3 enum: LEGACY_ISTIO_MTLS, and numbers that have no name here
  }
  return Fail(Code::kInvalidArgument,
              fmt::format("tunnel protocol {} is not supported", static_cast<int>(protocol)));
}

Status FillPlace(const wire::Workload& in, model::Workload& out) {
  std::vector<net::IpAddress> addresses;
  for (const std::string& bytes : in.addresses()) {
    const net::IpAddress ip = ToIp(bytes);
    if (!ip.is_set()) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("an address has {} bytes instead of 4 or 16", bytes.size()));
    }
    addresses.push_back(ip);
  }
  out.addresses = addresses;
  if (in.has_waypoint()) {
    QANAT_ASSIGN_OR_RETURN(out.waypoint, ToGateway(in.waypoint(), "waypoint"));
  }
  if (in.has_network_gateway()) {
    QANAT_ASSIGN_OR_RETURN(out.network_gateway, ToGateway(in.network_gateway(), "network gateway"));
  }
  std::vector<std::pair<model::SharedText, model::PortList>> services;
  for (const auto& [key, ports] : in.services()) {
    QANAT_ASSIGN_OR_RETURN(auto list, ToPorts(ports.ports()));
    services.emplace_back(key, std::move(list));
  }
  std::sort(services.begin(), services.end());
  out.services = std::move(services);
  QANAT_ASSIGN_OR_RETURN(out.protocol, ToProtocol(in.tunnel_protocol()));
  if (in.has_application_tunnel()) {
    const auto& tunnel = in.application_tunnel();
    QANAT_RETURN_IF_ERROR(PortInRange(tunnel.port(), "application tunnel port"));
    out.application_tunnel = model::ApplicationTunnel{
        tunnel.protocol() == wire::ApplicationTunnel::PROXY, static_cast<uint16_t>(tunnel.port())};
  }
  return {};
}

Result<model::Workload> ToWorkload(const wire::Workload& in) {
  model::Workload out;
  out.uid = in.uid();
  if (out.uid.empty()) return Fail(Code::kInvalidArgument, "a workload without a uid");
  out.SetName(in.name());
  out.ns = in.namespace_();
  out.hostname = in.hostname();
  out.network = in.network();
  out.trust_domain = OrDefault(in.trust_domain(), "cluster.local");
  out.service_account = OrDefault(in.service_account(), "default");
  out.node = in.node();
  out.canonical_name = in.canonical_name();
  out.canonical_revision = in.canonical_revision();
  out.workload_name = in.workload_name();
  out.cluster_id = OrDefault(in.cluster_id(), "Kubernetes");
  out.locality = {in.locality().region(), in.locality().zone(), in.locality().subzone()};
  out.authorization_policies = ToList(in.authorization_policies());
  out.capacity = in.has_capacity() ? in.capacity().value() : 1;
  out.network_mode = in.network_mode() == wire::NetworkMode::STANDARD
                         ? model::NetworkMode::kStandard
                         : model::NetworkMode::kHostNetwork;
  if (wire::WorkloadType_IsValid(in.workload_type())) {
    out.type = static_cast<model::WorkloadType>(in.workload_type());
  }
  out.healthy = in.status() == wire::WorkloadStatus::HEALTHY;
  out.native_tunnel = in.native_tunnel();
  out.gateway = HasExtension(in, "qanat.io/gateway");
  out.encrypt = HasExtension(in, "qanat.io/encrypt");
  QANAT_RETURN_IF_ERROR(FillPlace(in, out));
  return out;
}

}  // namespace

Result<std::variant<model::Workload, model::Service>> DecodeAddress(std::string_view bytes) {
  wire::Address address;
  if (bytes.size() > INT32_MAX ||
      !address.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Fail(Code::kInvalidArgument, "not an istio.workload.Address");
  }
  switch (address.type_case()) {
    case wire::Address::kWorkload: {
      QANAT_ASSIGN_OR_RETURN(auto workload, ToWorkload(address.workload()));
      return workload;
    }
    case wire::Address::kService: {
      QANAT_ASSIGN_OR_RETURN(auto service, ToService(address.service()));
      return service;
    }
    case wire::Address::TYPE_NOT_SET: break;
  }
  return Fail(Code::kInvalidArgument, "an address that is neither a workload nor a service");
}

}  // namespace qanat::state
