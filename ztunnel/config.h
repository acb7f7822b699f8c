// SPDX-License-Identifier: Apache-2.0
// The proxy's configuration, read once when it starts: the environment under the names that stock
// ztunnel uses (so that charts and manifests fit), and a ProxyConfig (PROXY_CONFIG, the mesh file)
// below it. Names that are not known here are ignored; what stock knows and we do not do is either
// refused, where ignoring it would be unsafe, or said in `warnings`.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/base/environment.h"
#include "common/base/result.h"
#include "common/grpc/control_plane.h"
#include "common/net/socket.h"
#include "common/takeover/supervisor.h"

namespace qanat::ztunnel {

// Who a pod is when nobody but the configuration says so.
struct PodIdentity {
  std::string ns, name, service_account;
  bool operator==(const PodIdentity&) const = default;
};

struct Config {
  // Shared: the pods of a node, which the node agent hands over. Dedicated: one workload, in the
  // network namespace that the proxy runs in.
  enum class Mode : uint8_t { kShared, kDedicated };

  std::string network;
  std::string node_name;
  std::string pod_name, pod_namespace;
  std::string instance_ip = "1.1.1.1";
  grpc::ControlPlane control_plane;
  std::string inpod_uds = "/var/run/ztunnel/ztunnel.sock";
  std::chrono::seconds secret_ttl{86400};
  // How long a root is believed that the CA no longer names (QANAT_ROOT_GRACE; SECRET_TTL).
  std::chrono::seconds root_grace{86400};
  uint32_t packet_mark = 1337;
  uint32_t one_pass_mark = 0x53c;  // asks the node agent for a grant; QANAT_ONE_PASS=false: off
  bool one_pass = true;
  bool ipv6 = true;
  bool reuse_port = true;
  std::optional<bool> orig_src;  // ENABLE_ORIG_SRC; unset: where transparency works
  bool tls12 = false;
  bool response_baggage = true;
  uint32_t stream_window = 4u << 20;
  uint32_t connection_window = 16u << 20;
  uint32_t frame_size = 1u << 20;
  uint32_t pool_max_streams = 100;
  std::chrono::milliseconds pool_idle{300000};
  std::chrono::milliseconds termination_deadline{5000};
  unsigned workers = 2;
  std::string admin_address = "127.0.0.1:15000";  // QANAT_ADMIN_ADDR
  std::string metrics_address = "[::]:15020";     // QANAT_METRICS_ADDR
  std::string readiness_address = "[::]:15021";   // QANAT_READINESS_ADDR
  std::string log_levels = "info";
  bool log_json = false;
  std::vector<std::string> environment;  // ISTIO_META_*, ISTIO_METAJSON_* for the xDS node

  Mode mode = Mode::kShared;
  PodIdentity dedicated;  // PROXY_WORKLOAD_INFO
  // Whose the proxy's own pod is: with both names and SERVICE_ACCOUNT it also takes HBONE for
  // itself. The trust domain is what the control plane announces; where another one was set
  // (TRUST_DOMAIN) the log says so.
  std::string trust_domain, service_account;
  net::KeepAlive keepalive;
  std::string local_xds_path, local_xds;  // a file that is watched; or the text itself
  std::string preferred_service_namespace;
  // A PROXY application tunnel ends at the pod's loopback (LOCALHOST_APP_TUNNEL).
  bool localhost_app_tunnel = true;
  // Whoever is to be reached through a waypoint refuses what went around it; false as in stock
  // proxies (QANAT_ENFORCE_WAYPOINT).
  bool enforce_waypoint = true;
  // COMPLIANCE_POLICY=pqc, for traffic between workloads: X25519MLKEM768 only, TLS 1.3 only.
  bool post_quantum_only = false;
  // Towards proxies of our own kind the pods of an identity share tunnels, and each stream says its
  // source; and we take such streams (QANAT_SHARED_TUNNELS). Not said: those of others are taken,
  // and ours made where no process takes over from this one: its pod's end would be theirs.
  bool shared_tunnels = true;
  std::optional<bool> make_shared_tunnels;
  // A further TLS connection between two of our kind begins where the last one ended
  // (QANAT_TLS_RESUMPTION).
  bool tls_resumption = true;
  // Between two of our kind a client's first bytes go along with the CONNECT that asks for its
  // server (QANAT_EARLY_DATA).
  bool early_data = true;
  std::string crl_path;  // CRL_PATH: revocation lists, PEM or DER; watched
  bool socks5 = false;
  bool authz_info_logging = false;
  // User connections of one pod, both ways; 0: a quarter of the process's file descriptors
  // (QANAT_MAX_CONNECTIONS_PER_POD).
  uint32_t max_pod_connections = 0;
  // Bytes; what the process may use, and what the connections of one pod may hold of what is not
  // read. 0: from the cgroup or the machine, and a half of that (QANAT_MEMORY_BUDGET,
  // QANAT_MAX_MEMORY_PER_POD).
  uint64_t memory_budget = 0, max_pod_memory = 0;
  // The heap profile remembers one allocation in so many bytes; 0: there is none
  // (QANAT_HEAP_PROFILE_RATE).
  uint64_t heap_profile_rate = 512 << 10;
  // A connection of which one direction has ended, and the other one is silent that long, ends; 0:
  // never (QANAT_HALF_CLOSED_TIMEOUT).
  std::chrono::milliseconds half_closed_timeout{std::chrono::hours(1)};
  // A tunnel to one of our pods without a stream is closed after this; 0: never
  // (QANAT_IDLE_TUNNEL_TIMEOUT). Peers keep an unused one for five minutes.
  std::chrono::milliseconds idle_tunnel_timeout{std::chrono::minutes(15)};
  bool dns_capture = true;                       // ISTIO_META_DNS_CAPTURE: the DNS proxy
  std::string dns_address = "localhost:15053";   // ISTIO_META_DNS_PROXY_ADDR
  std::string cluster_domain = "cluster.local";  // CLUSTER_DOMAIN
  std::string resolv_conf = "/etc/resolv.conf";  // QANAT_RESOLV_CONF
  std::vector<std::string> warnings;             // for the log, once it works
  // Only what connections ask for is subscribed to (XDS_ON_DEMAND); without the DNS proxy, which
  // would have to know all names.
  bool xds_on_demand = false;
  // Where the last good mesh state is kept; "": nowhere (QANAT_STATE_DIR). How old it may be for
  // its policies to count in full (QANAT_MAX_STALE).
  std::string state_dir;
  std::chrono::seconds max_stale{86400};

  // Where a new process of the proxy meets the old one ("" = they do not meet):
  // QANAT_TAKEOVER_SOCKET.
  std::string takeover_socket;
  // A supervisor that keeps descriptors for us (NOTIFY_SOCKET), and those that it passed
  // (LISTEN_FDS).
  std::string notify_socket;
  std::vector<takeover::PassedFd> passed_fds;

  bool shares_own() const {
    return shared_tunnels && make_shared_tunnels.value_or(takeover_socket.empty());
  }
  bool self_proxy() const {
    return mode == Mode::kShared && !pod_name.empty() && !pod_namespace.empty() &&
           !service_account.empty();
  }
};

struct ConfigSources {
  GetEnvironment get;
  std::vector<std::string> entries;  // all of the environment as NAME=value
  unsigned cores = 1;                // what ZTUNNEL_WORKER_THREADS=auto counts
  std::string mesh_config;           // the text of kMeshConfigPath; "" where there is no such file
};
inline constexpr const char* kMeshConfigPath = "./etc/istio/config/mesh";

Result<Config> LoadConfig(const ConfigSources& sources);

}  // namespace qanat::ztunnel
