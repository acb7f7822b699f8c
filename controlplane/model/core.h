// SPDX-License-Identifier: Apache-2.0
// Kubernetes' own kinds, as far as the mesh reads them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/net/address.h"
#include "controlplane/model/meta.h"

namespace qanat::controlplane {

struct Namespace {
  ObjectMeta meta;  // meta.ns is empty
};

struct Node {
  ObjectMeta meta;
  std::vector<net::IpAddress> addresses;  // InternalIP
};

struct ServiceAccount {
  ObjectMeta meta;
};

enum class Protocol { kTcp, kUdp, kSctp };

struct ContainerPort {
  std::string name;
  uint16_t port = 0;
  Protocol protocol = Protocol::kTcp;
};

struct Pod {
  ObjectMeta meta;
  std::string node;
  std::string service_account = "default";
  bool host_network = false;
  bool terminating = false;  // deletionTimestamp is set
  bool ready = false;        // condition Ready is True
  std::string phase;         // Pending, Running, Succeeded, Failed, "" when not said
  std::vector<net::IpAddress> ips;
  net::IpAddress host_ip;
  std::vector<ContainerPort> ports;  // of all containers, in order

  bool terminal() const { return phase == "Succeeded" || phase == "Failed"; }
};

// An int port or the name of a container port.
struct PortRef {
  uint16_t number = 0;  // 0: use the name
  std::string name;
};

// How the traffic of a port is to be understood: from appProtocol, or the port's name prefix.
enum class AppProtocol { kUnknown, kHttp1, kHttp2, kGrpc, kTcp, kTls };

struct ServicePort {
  std::string name;
  uint16_t port = 0;
  Protocol protocol = Protocol::kTcp;
  AppProtocol app_protocol = AppProtocol::kUnknown;
  PortRef target;  // never empty: the default, the port's own number, is filled in
  int line = 0;
};

struct Service {
  enum class Type { kClusterIp, kNodePort, kLoadBalancer, kExternalName };
  enum class TrafficDistribution { kNone, kPreferClose, kPreferSameZone, kPreferSameNode };
  ObjectMeta meta;
  Type type = Type::kClusterIp;
  std::string hostname;  // <name>.<ns>.svc.<domain>; filled by World
  std::string external_name;
  Labels selector;
  bool headless = false;                    // clusterIP: None
  std::vector<net::IpAddress> cluster_ips;  // empty for headless
  std::vector<std::string> ip_families;     // "IPv4", "IPv6"
  std::vector<ServicePort> ports;
  bool publish_not_ready = false;
  bool internal_traffic_local = false;
  TrafficDistribution distribution = TrafficDistribution::kNone;
  // Made by the control plane for a waypoint Gateway that has no Service object.
  bool synthetic = false;

  const ServicePort* FindPort(uint16_t port) const;
};

struct EndpointSlice {
  struct Endpoint {
    std::vector<std::string> addresses;
    bool ready = true;
    std::string target_kind;  // targetRef
    std::string target_namespace;
    std::string target_name;
    std::string target_uid;
    std::string node;
    std::string zone;
  };
  struct Port {
    std::string name;
    uint16_t port = 0;
    Protocol protocol = Protocol::kTcp;
  };
  ObjectMeta meta;
  std::string service;       // label kubernetes.io/service-name
  std::string address_type;  // IPv4, IPv6, FQDN
  std::vector<Endpoint> endpoints;
  std::vector<Port> ports;
};

}  // namespace qanat::controlplane
