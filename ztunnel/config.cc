// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/grpc/endpoint.h"
#include "ztunnel/config_memory.h"
#include "ztunnel/config_workers.h"
#include "ztunnel/dns/listeners.h"
#include "ztunnel/proxy_config.h"

namespace qanat::ztunnel {
namespace {

constexpr std::string_view kMetaPrefix = "ISTIO_META_";

// The mesh file and PROXY_CONFIG give defaults for what the environment can say as well.
void ApplyProxyConfig(const ProxyConfig& from, const EnvironmentReader& reader, Config& config) {
  // Stock: where nobody says anything, the control plane of the cluster that we are in.
  std::string address = config.control_plane.xds_address;
  if (reader.Value("KUBERNETES_SERVICE_HOST") == nullptr) address = "https://localhost:15012";
  config.control_plane.ca_address = address;
  if (from.discovery_address) {
    address = *from.discovery_address;
    if (!address.empty() && address.find("://") == std::string::npos) address.insert(0, "https://");
  }
  config.control_plane.xds_address = address;
  const char* any = config.ipv6 ? "[::]" : "0.0.0.0";
  config.admin_address = fmt::format("127.0.0.1:{}", from.admin_port.value_or(15000));
  config.metrics_address = fmt::format("{}:{}", any, from.stats_port.value_or(15020));
  config.readiness_address = fmt::format("{}:15021", any);
  for (const auto& [name, value] : from.metadata) {
    config.environment.push_back(fmt::format("{}{}={}", kMetaPrefix, name, value));
  }
}

void ReadTermination(EnvironmentReader& reader, Config& config) {
  // Stock: the grace period less 5 s (less 1 s when it is short), unless given directly.
  if (reader.Value("TERMINATION_GRACE_PERIOD_SECONDS") != nullptr) {
    int grace = 0;
    reader.Number("TERMINATION_GRACE_PERIOD_SECONDS", grace);
    config.termination_deadline =
        std::chrono::seconds(std::max(1, grace > 10 ? grace - 5 : grace - 1));
  }
  reader.Duration("CONNECTION_TERMINATION_DEADLINE", config.termination_deadline);
}

bool SplitIdentity(std::string_view text, PodIdentity& out) {
  const size_t first = text.find('/');
  const size_t second = first == std::string_view::npos ? first : text.find('/', first + 1);
  if (second == std::string_view::npos) return false;
  out.ns = text.substr(0, first);
  out.name = text.substr(first + 1, second - first - 1);
  out.service_account = text.substr(second + 1);
  return !out.ns.empty() && !out.name.empty() && !out.service_account.empty() &&
         out.service_account.find('/') == std::string::npos;
}

void ReadMode(EnvironmentReader& reader, Config& config) {
  const char* mode = reader.Value("PROXY_MODE");
  if (mode != nullptr && std::string_view(mode) != "shared") {
    if (std::string_view(mode) != "dedicated") {
      return reader.Bad("PROXY_MODE", "shared or dedicated");
    }
    config.mode = Config::Mode::kDedicated;
    config.packet_mark = 0;  // nothing captures by mark there
    const char* info = reader.Value("PROXY_WORKLOAD_INFO");
    if (info == nullptr || !SplitIdentity(info, config.dedicated)) {
      reader.Bad("PROXY_WORKLOAD_INFO",
                 "namespace/name/service-account of the workload that PROXY_MODE=dedicated serves");
    }
  }
}

void ReadKeepAlive(EnvironmentReader& reader, net::KeepAlive& out) {
  reader.Bool("KEEPALIVE_ENABLED", out.enabled);
  reader.Duration("KEEPALIVE_TIME", out.time);
  reader.Duration("KEEPALIVE_INTERVAL", out.interval);
  reader.Number("KEEPALIVE_RETRIES", out.retries, 1, 127);
  reader.Bool("USER_TIMEOUT_ENABLED", out.user_timeout);
  constexpr std::chrono::seconds kLeast{1}, kMost{32767};  // what the kernel takes
  if (out.time < kLeast || out.time > kMost) reader.Bad("KEEPALIVE_TIME", "1s to 32767s");
  if (out.interval < kLeast || out.interval > kMost) {
    reader.Bad("KEEPALIVE_INTERVAL", "1s to 32767s");
  }
}

void ReadLocalXds(EnvironmentReader& reader, Config& config) {
  reader.Text("LOCAL_XDS_PATH", config.local_xds_path);
  reader.Text("LOCAL_XDS", config.local_xds);
  if (!config.local_xds_path.empty() && !config.local_xds.empty()) {
    reader.Bad("LOCAL_XDS", "nothing, since LOCAL_XDS_PATH is set: only one of them can be");
  }
}

void ReadSavedState(EnvironmentReader& reader, Config& config) {
  reader.Text("QANAT_STATE_DIR", config.state_dir);
  if (!config.state_dir.empty() && config.state_dir.front() != '/') {
    reader.Bad("QANAT_STATE_DIR", "an absolute path, or nothing");
  }
  reader.Duration("QANAT_MAX_STALE", config.max_stale);
}

void ReadDns(EnvironmentReader& reader, Config& config) {
  reader.Bool("ISTIO_META_DNS_CAPTURE", config.dns_capture);
  reader.Text("ISTIO_META_DNS_PROXY_ADDR", config.dns_address);
  reader.Text("CLUSTER_DOMAIN", config.cluster_domain);
  // Names are compared as the wire has them: lower case, without the root's dot.
  std::string& domain = config.cluster_domain;
  std::transform(domain.begin(), domain.end(), domain.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  while (domain.ends_with('.')) domain.pop_back();
  if (domain.empty()) reader.Bad("CLUSTER_DOMAIN", "a domain, as cluster.local");
  reader.Text("QANAT_RESOLV_CONF", config.resolv_conf);
}

void ReadTakeover(EnvironmentReader& reader, const GetEnvironment& get, Config& config) {
  reader.Text("QANAT_TAKEOVER_SOCKET", config.takeover_socket);
  reader.Text("NOTIFY_SOCKET", config.notify_socket);
  config.passed_fds = takeover::ReadPassedFds(get);
}

// A policy that cannot be held must not be taken for one that is.
void ReadCompliance(EnvironmentReader& reader, Config& config) {
  std::string compliance;
  reader.Text("COMPLIANCE_POLICY", compliance);
  config.post_quantum_only = compliance == "pqc";
  if (!compliance.empty() && !config.post_quantum_only) {
    reader.Bad("COMPLIANCE_POLICY", "pqc (no other policy can be held here), or unset");
  }
}

// Settings of the stock proxy that would be unsafe to pass over.
void RefuseUnsupported(EnvironmentReader& reader) {
  bool proxy = true;
  reader.Bool("ENABLE_PROXY", proxy);
  if (!proxy) reader.Bad("ENABLE_PROXY", "true: a proxy that does not proxy is not to be had here");
  bool fake = false;
  reader.Bool("FAKE_CA", fake);
  if (fake) reader.Bad("FAKE_CA", "false: certificates come from CA_ADDRESS only");
}

void ReadOnDemand(EnvironmentReader& reader, Config& config) {
  reader.Bool("XDS_ON_DEMAND", config.xds_on_demand);
  if (!config.xds_on_demand || !config.dns_capture) return;
  if (reader.Value("ISTIO_META_DNS_CAPTURE") != nullptr) {
    return reader.Bad("ISTIO_META_DNS_CAPTURE",
                      "false, with XDS_ON_DEMAND=true: nobody knows all names then");
  }
  config.dns_capture = false;
  config.warnings.push_back(
      "XDS_ON_DEMAND=true: there is no DNS proxy, it would have to know all "
      "names");
}

// With the ranges of RFC 9113; a window of nothing would let nothing through.
void ReadTunnels(EnvironmentReader& reader, Config& config) {
  reader.Number("HTTP2_STREAM_WINDOW_SIZE", config.stream_window, 1u, 0x7fffffffu);
  reader.Number("HTTP2_CONNECTION_WINDOW_SIZE", config.connection_window, 1u, 0x7fffffffu);
  reader.Number("HTTP2_FRAME_SIZE", config.frame_size, 16384u, 0xffffffu);
  reader.Number("POOL_MAX_STREAMS_PER_CONNECTION", config.pool_max_streams, 1u);
  reader.Duration("POOL_UNUSED_RELEASE_TIMEOUT", config.pool_idle);
}

// Where the proxy listens for operators. What cannot be read is said with its name, at the start.
Status CheckAddresses(const Config& config) {
  for (const auto& [name, text] : {std::pair{"QANAT_ADMIN_ADDR", &config.admin_address},
                                   {"QANAT_METRICS_ADDR", &config.metrics_address},
                                   {"QANAT_READINESS_ADDR", &config.readiness_address}}) {
    if (net::SocketAddress::Parse(*text)) continue;
    return Fail(Code::kInvalidArgument,
                fmt::format("{}=\"{}\": expected an address, as 127.0.0.1:15000 or [::]:15020",
                            name, *text));
  }
  const grpc::ControlPlane& at = config.control_plane;
  for (const auto& [name, text] : {std::pair{"XDS_ADDRESS, or discoveryAddress", &at.xds_address},
                                   {"CA_ADDRESS", &at.ca_address}}) {
    if (text->empty()) continue;  // none is wanted
    if (const auto endpoint = grpc::ParseEndpoint(*text); !endpoint) {
      return Fail(Code::kInvalidArgument, fmt::format("{}: {}", name, endpoint.error().message));
    }
  }
  return {};
}

void ReadLogging(EnvironmentReader& reader, Config& config) {
  reader.Text("RUST_LOG", config.log_levels);
  if (config.log_levels.empty()) config.log_levels = "info";
  const char* format = reader.Value("LOG_FORMAT");
  if (format != nullptr && std::string_view(format) == "json") {
    config.log_json = true;
  } else if (format != nullptr && std::string_view(format) != "plain") {
    config.warnings.push_back(fmt::format("LOG_FORMAT=\"{}\": expected plain or json", format));
  }
  reader.Bool("AUTHZ_POLICY_INFO_LOGGING", config.authz_info_logging);
}

}  // namespace

Result<Config> LoadConfig(const ConfigSources& sources) {
  const char* variable = sources.get("PROXY_CONFIG");
  QANAT_ASSIGN_OR_RETURN(const ProxyConfig proxy_config,
                         ParseProxyConfig(sources.mesh_config, variable ? variable : ""));
  // A name in proxyMetadata stands for its ISTIO_META_ variable, unless that is set itself.
  const GetEnvironment get = [&](const char* name) -> const char* {
    if (const char* value = sources.get(name)) return value;
    const std::string_view text = name;
    if (!text.starts_with(kMetaPrefix)) return nullptr;
    const auto it = proxy_config.metadata.find(std::string(text.substr(kMetaPrefix.size())));
    return it == proxy_config.metadata.end() ? nullptr : it->second.c_str();
  };
  EnvironmentReader reader(get);
  Config config;
  reader.Bool("IPV6_ENABLED", config.ipv6);
  ApplyProxyConfig(proxy_config, reader, config);
  config.environment.insert(config.environment.end(), sources.entries.begin(),
                            sources.entries.end());
  config.control_plane.Read(reader);
  QANAT_RETURN_IF_ERROR(config.control_plane.ReadHeaders(sources.entries));
  ReadMode(reader, config);
  ReadLocalXds(reader, config);
  reader.Text("NETWORK", config.network);
  reader.Text("NODE_NAME", config.node_name);
  reader.Text("POD_NAME", config.pod_name);
  reader.Text("POD_NAMESPACE", config.pod_namespace);
  reader.Text("SERVICE_ACCOUNT", config.service_account);
  reader.Text("TRUST_DOMAIN", config.trust_domain);
  reader.Text("INSTANCE_IP", config.instance_ip);
  reader.Text("INPOD_UDS", config.inpod_uds);
  reader.Duration("SECRET_TTL", config.secret_ttl);
  config.root_grace = config.secret_ttl;
  reader.Duration("QANAT_ROOT_GRACE", config.root_grace);
  reader.Number("PACKET_MARK", config.packet_mark);
  reader.Bool("QANAT_ONE_PASS", config.one_pass);
  reader.Bool("INPOD_PORT_REUSE", config.reuse_port);
  if (reader.Value("ENABLE_ORIG_SRC") != nullptr) {
    bool on = true;
    reader.Bool("ENABLE_ORIG_SRC", on);
    config.orig_src = on;
  }
  reader.Bool("TLS12_ENABLED", config.tls12);
  ReadCompliance(reader, config);
  reader.Text("CRL_PATH", config.crl_path);
  reader.Bool("ENABLE_RESPONSE_BAGGAGE", config.response_baggage);
  ReadTunnels(reader, config);
  ReadKeepAlive(reader, config.keepalive);
  reader.Text("PREFERED_SERVICE_NAMESPACE", config.preferred_service_namespace);
  reader.Bool("LOCALHOST_APP_TUNNEL", config.localhost_app_tunnel);
  reader.Bool("QANAT_ENFORCE_WAYPOINT", config.enforce_waypoint);
  reader.Bool("QANAT_SHARED_TUNNELS", config.shared_tunnels);
  if (reader.Value("QANAT_SHARED_TUNNELS") != nullptr) {
    config.make_shared_tunnels = config.shared_tunnels;
  }
  reader.Bool("QANAT_TLS_RESUMPTION", config.tls_resumption);
  reader.Bool("QANAT_EARLY_DATA", config.early_data);
  reader.Bool("UNSTABLE_ENABLE_SOCKS5", config.socks5);
  ReadTermination(reader, config);
  config.workers = ReadWorkers(reader, sources.cores, proxy_config.concurrency);
  reader.Text("QANAT_ADMIN_ADDR", config.admin_address);
  reader.Text("QANAT_METRICS_ADDR", config.metrics_address);
  reader.Text("QANAT_READINESS_ADDR", config.readiness_address);
  ReadLogging(reader, config);
  reader.Number("QANAT_MAX_CONNECTIONS_PER_POD", config.max_pod_connections);
  config.memory_budget = ReadBytes(reader, "QANAT_MEMORY_BUDGET", kLeastBudget);
  config.max_pod_memory = ReadBytes(reader, "QANAT_MAX_MEMORY_PER_POD", kLeastPodMemory);
  reader.Number("QANAT_HEAP_PROFILE_RATE", config.heap_profile_rate);
  reader.Duration("QANAT_HALF_CLOSED_TIMEOUT", config.half_closed_timeout);
  reader.Duration("QANAT_IDLE_TUNNEL_TIMEOUT", config.idle_tunnel_timeout);
  ReadDns(reader, config);
  ReadOnDemand(reader, config);
  ReadSavedState(reader, config);
  ReadTakeover(reader, get, config);
  if (config.mode == Config::Mode::kDedicated) {
    config.one_pass = false;  // there is no other pod to go to
    // What brings the answers to a foreign address back to us is not set up by anybody here.
    if (!config.orig_src) config.orig_src = false;
  }
  RefuseUnsupported(reader);
  QANAT_RETURN_IF_ERROR(reader.status());
  QANAT_RETURN_IF_ERROR(CheckAddresses(config));
  QANAT_RETURN_IF_ERROR(dns::ParseBindAddress(config.dns_address, config.ipv6));
  return config;
}

}  // namespace qanat::ztunnel
