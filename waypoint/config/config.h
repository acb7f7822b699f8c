// SPDX-License-Identifier: Apache-2.0
// What the waypoint runs, as plain immutable values: decoded once on the main thread from Envoy's
// messages, handed to the workers as one snapshot. Nothing here knows protobuf.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/net/address.h"
#include "waypoint/authz/rbac.h"
#include "waypoint/balance/balancer.h"
#include "waypoint/route/path_template.h"
#include "waypoint/route/route_table.h"

namespace qanat::waypoint {

// An HttpConnectionManager of an inbound chain.
struct HttpChain {
  std::string rds_name;  // or:
  std::shared_ptr<const RouteTable> inline_routes;
  // RBAC filters in their order, with what they do where no route overrides them.
  std::vector<std::pair<std::string, std::shared_ptr<const RbacRules>>> rbac;
  std::shared_ptr<const Fault> fault;
  bool fault_filter = false;  // routes' faults act only where the filter is in the chain
  bool cors_filter = false;
  PathNormalization path;
  bool use_remote_address = false;
  bool skip_xff_append = false;
  uint32_t xff_trusted_hops = 0;
  bool generate_request_id = true;
  std::string server_name = "istio-envoy";
  enum class ServerHeader : uint8_t { kOverwrite, kAppendIfAbsent, kPassThrough };
  ServerHeader server_header = ServerHeader::kOverwrite;
  std::chrono::milliseconds stream_idle_timeout{0};  // 0: off
  std::chrono::milliseconds request_headers_timeout{0};
  std::chrono::milliseconds request_timeout{0};
  std::chrono::milliseconds idle_timeout{3600000};
  uint32_t max_header_kb = 60;
  bool access_log = true;
};

struct TcpChain {
  RbacRules rbac;
  std::vector<std::pair<std::string, uint32_t>> clusters;  // name, weight
  std::chrono::milliseconds idle_timeout{3600000};         // Envoy's tcp_proxy default; 0: off
};

// How a connection for one service port is treated. Both set: the first bytes decide.
struct Chain {
  std::string name;
  std::shared_ptr<const HttpChain> http;
  std::shared_ptr<const TcpChain> tcp;
};
using ChainPtr = std::shared_ptr<const Chain>;

// What the filter chain matcher comes to: chains by destination address and port, then by the
// CONNECT authority.
struct ChainTable {
  std::unordered_map<net::SocketAddress, ChainPtr> by_address;
  std::unordered_map<net::IpAddress, ChainPtr> by_ip;      // any port: workload waypoints
  std::unordered_map<std::string, ChainPtr> by_authority;  // "host:port", lower case

  ChainPtr Find(std::string_view authority) const;
};

struct ListenerConfig {
  std::string name;
  ChainTable chains;
  std::set<std::string> route_names;
};

// Telemetry facts of an endpoint's workload, from endpoint metadata "qanat", or "istio" ->
// "workload": name;namespace;canonical name;revision;cluster (istiod's form).
struct WorkloadLabels {
  std::string workload;
  std::string ns;
  std::string canonical_name;
  std::string canonical_revision;
  std::string cluster;
  std::string app;
  std::string version;
};

struct Endpoint {
  net::SocketAddress address;  // of the application
  bool hbone = false;          // reached through a tunnel:
  net::SocketAddress tunnel;   // where the tunnel ends, port 15008 as a rule
  // What the tunnel's end must prove; also the destination principal of metrics. A tunnel to an
  // endpoint whose identity nobody named is refused.
  std::string identity;
  std::string hostname;
  uint32_t weight = 1;
  uint32_t priority = 0;
  bool healthy = true;
  WorkloadLabels labels;
};

struct EndpointSet {
  std::string cluster;
  std::vector<Endpoint> endpoints;
};

enum class UpstreamProtocol : uint8_t { kHttp1, kHttp2, kLikeDownstream };

struct OutlierConfig {
  uint32_t consecutive_5xx = 0;      // 0: off
  uint32_t consecutive_gateway = 0;  // 0: off
  std::chrono::milliseconds base_ejection{30000};
  std::chrono::milliseconds max_ejection{300000};
  uint32_t max_ejection_percent = 10;
};

struct ClusterConfig {
  std::string name;
  std::string eds_name;  // empty: endpoints are inline
  std::shared_ptr<const EndpointSet> inline_endpoints;
  LbPolicy lb = LbPolicy::kLeastRequest;
  uint32_t lb_choices = 2;
  UpstreamProtocol protocol = UpstreamProtocol::kHttp1;
  std::chrono::milliseconds connect_timeout{10000};
  std::chrono::milliseconds idle_timeout{3600000};
  uint32_t max_requests_per_connection = 0;
  uint32_t max_connections = 0;  // 0: no limit
  uint32_t max_pending = 0;
  uint32_t max_requests = 0;
  uint32_t max_retries = 0;
  std::optional<OutlierConfig> outlier;
  // Telemetry, from cluster metadata "istio" -> services[0].
  std::string service_host, service_name, service_namespace;
  std::string subset;
  // connect_originate, main_internal and the like: parts of Envoy's own plumbing, no destinations.
  bool plumbing = false;
};

// One consistent state. Workers hold it by shared_ptr for as long as a request needs it.
struct ConfigSnapshot {
  uint64_t generation = 0;
  std::map<std::string, std::shared_ptr<const ListenerConfig>> listeners;
  std::unordered_map<std::string, std::shared_ptr<const RouteTable>> routes;
  std::unordered_map<std::string, std::shared_ptr<const ClusterConfig>> clusters;
  std::unordered_map<std::string, std::shared_ptr<const EndpointSet>> endpoints;

  ChainPtr FindChain(std::string_view authority) const;
  // nullptr: named but not received (yet): the request gets NR.
  std::shared_ptr<const RouteTable> RoutesOf(const HttpChain& chain) const;
  std::shared_ptr<const ClusterConfig> FindCluster(const std::string& name) const;
  std::shared_ptr<const EndpointSet> EndpointsOf(const ClusterConfig& cluster) const;
};
using SnapshotPtr = std::shared_ptr<const ConfigSnapshot>;

}  // namespace qanat::waypoint
