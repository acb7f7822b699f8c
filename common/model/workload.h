// SPDX-License-Identifier: Apache-2.0
// Workloads and services as the control plane describes them, decoded into plain values. They are
// built once by common/state and immutable from then on; any thread may read them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "common/base/kept_text.h"
#include "common/model/address_list.h"
#include "common/model/identity.h"
#include "common/model/shared_text.h"
#include "common/model/shared_value.h"
#include "common/net/address.h"

namespace qanat::model {

struct NetworkAddress {
  std::string network;
  net::IpAddress ip;
  auto operator<=>(const NetworkAddress&) const = default;
};

struct NamespacedHostname {
  std::string ns;
  std::string hostname;
  std::string Key() const { return ns + "/" + hostname; }
  auto operator<=>(const NamespacedHostname&) const = default;
};

// A waypoint or a network gateway.
struct GatewayAddress {
  std::variant<NamespacedHostname, NetworkAddress> destination;
  uint16_t hbone_port = 15008;
  std::string ToString() const;
  auto operator<=>(const GatewayAddress&) const = default;
};

struct WeightedWaypoint {
  GatewayAddress destination;
  uint32_t weight = 0;
  auto operator<=>(const WeightedWaypoint&) const = default;
};

enum class AppProtocol : uint8_t { kUnknown, kHttp11, kHttp2, kGrpc, kTcp, kTls };

struct Port {
  uint16_t service_port = 0;
  uint16_t target_port = 0;  // 0: a named port, only the endpoint knows
  AppProtocol app_protocol = AppProtocol::kUnknown;
  auto operator<=>(const Port&) const = default;
};
using PortList = std::vector<Port>;

struct Locality {
  SharedText region, zone, subzone;
  bool empty() const { return region.empty() && zone.empty() && subzone.empty(); }
  auto operator<=>(const Locality&) const = default;
};

struct ApplicationTunnel {
  bool proxy_protocol = false;  // the PROXY kind; else none
  uint16_t port = 0;
  auto operator<=>(const ApplicationTunnel&) const = default;
};

enum class TunnelProtocol : uint8_t { kNone, kHbone };
enum class NetworkMode : uint8_t { kStandard, kHostNetwork };
enum class WorkloadType : uint8_t { kDeployment, kCronJob, kPod, kJob };
std::string_view ToString(WorkloadType type);  // "deployment", as in baggage keys and logs

// A large mesh has hundreds of thousands: what many have alike is kept once, what is rarely there
// takes a pointer, and the name is the end of the uid.
struct Workload {
  KeptText uid;  // "Kubernetes//Pod/shop/frontend-1"
  AddressList addresses;
  SharedText ns;
  SharedText hostname;  // resolved on demand when there is no address
  SharedText network;
  SharedText trust_domain, service_account;
  SharedText node;
  SharedText canonical_name, canonical_revision, workload_name;
  SharedText cluster_id;
  Locality locality;
  SharedValue<GatewayAddress> waypoint, network_gateway;
  std::optional<ApplicationTunnel> application_tunnel;
  SharedList<std::pair<SharedText, PortList>> services;  // "ns/hostname", sorted by it
  SharedList<std::string> authorization_policies;        // "ns/name"
  uint32_t capacity = 1;
  TunnelProtocol protocol = TunnelProtocol::kNone;
  NetworkMode network_mode = NetworkMode::kStandard;
  WorkloadType type = WorkloadType::kDeployment;
  bool healthy = true;
  bool native_tunnel = false;
  bool gateway = false;  // a pod of a Gateway (our control plane's extension qanat.io/gateway)
  // Its connections are encrypted on its own node too (extension qanat.io/encrypt).
  bool encrypt = false;

  std::string_view name() const;
  void SetName(std::string_view name);  // after the uid
  Identity identity() const { return {trust_domain, ns, service_account}; }
  const PortList* PortsOf(std::string_view service_key) const;  // nullptr: not an endpoint of it
  bool HasAddress(const net::IpAddress& ip) const;
  bool operator==(const Workload&) const = default;

 private:
  bool name_in_uid_ = false;  // what is behind its last slash
  KeptText other_name_;
};
using WorkloadPtr = Shared<Workload>;

enum class LbScope : uint8_t { kUnspecified, kRegion, kZone, kSubzone, kNode, kCluster, kNetwork };
enum class LbMode : uint8_t { kUnspecified, kStrict, kFailover, kPassthrough };
struct LoadBalancing {
  SharedList<LbScope> routing_preference;
  LbMode mode = LbMode::kUnspecified;
  bool allow_unhealthy = false;
  bool operator==(const LoadBalancing&) const = default;
};

enum class IpFamilies : uint8_t { kAutomatic, kIpv4Only, kIpv6Only, kDual };

struct ServiceAddress {
  SharedText network;
  net::Cidr cidr;  // a host route unless a ServiceEntry names a block
  bool host = true;
  auto operator<=>(const ServiceAddress&) const = default;
};

struct Service {
  SharedText name, ns;
  std::string hostname;
  SharedList<ServiceAddress> addresses;
  PortList ports;
  SharedList<std::string> subject_alt_names;
  SharedValue<GatewayAddress> waypoint;
  SharedList<WeightedWaypoint> weighted_waypoints;
  LoadBalancing load_balancing;
  IpFamilies ip_families = IpFamilies::kAutomatic;
  bool canonical = false;
  bool ingress_use_waypoint = false;
  bool namespace_only = false;  // visibility NAMESPACE
  // Its pods accept only what came through its waypoint (extension qanat.io/require-waypoint).
  bool require_waypoint = false;

  std::string Key() const { return ns + "/" + hostname; }
  const Port* FindPort(uint16_t service_port) const;
  bool HasAddress(std::string_view network, const net::IpAddress& ip) const;  // not: within a block
  bool operator==(const Service&) const = default;
};
using ServicePtr = std::shared_ptr<const Service>;

// One workload behind one service; `ports` points into the workload.
struct Endpoint {
  WorkloadPtr workload;
  const PortList* ports = nullptr;
};
using EndpointList = std::vector<Endpoint>;

}  // namespace qanat::model
