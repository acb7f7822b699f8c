// SPDX-License-Identifier: Apache-2.0
// Every environment variable of the stock proxy: what it sets, or that it is refused or warned of.
#include "ztunnel/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace qanat::ztunnel {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

using Variables = std::map<std::string, std::string>;

Result<Config> From(const Variables& environment, unsigned cores = 8,
                    const std::string& mesh_config = "") {
  ConfigSources sources;
  sources.get = [&](const char* name) -> const char* {
    const auto it = environment.find(name);
    return it == environment.end() ? nullptr : it->second.c_str();
  };
  for (const auto& [name, value] : environment) sources.entries.push_back(name + "=" + value);
  sources.cores = cores;
  sources.mesh_config = mesh_config;
  return LoadConfig(sources);
}

TEST(Config, Defaults) {
  const auto config = From({{"KUBERNETES_SERVICE_HOST", "10.96.0.1"}});
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ(config->packet_mark, 0x539u);
  EXPECT_EQ(config->control_plane.xds_address, "https://istiod.istio-system.svc:15012");
  EXPECT_EQ(config->control_plane.ca_address, "https://istiod.istio-system.svc:15012");
  EXPECT_EQ(config->termination_deadline, std::chrono::seconds(5));
  EXPECT_TRUE(config->ipv6);
  EXPECT_TRUE(config->localhost_app_tunnel);
  EXPECT_TRUE(config->enforce_waypoint);
  EXPECT_EQ(config->workers, 2u);
  EXPECT_EQ(config->keepalive, net::KeepAlive());
  EXPECT_FALSE(config->self_proxy());
  EXPECT_THAT(config->warnings, IsEmpty());
  EXPECT_EQ(From({})->control_plane.xds_address, "https://localhost:15012");  // not in a cluster
}

struct Row {
  std::string name, value;
  // What the configuration says with the variable set; without it, it must not say that.
  std::function<bool(const Config&)> set;
  std::string refused;  // a value that is not taken
};

// The names and meanings of the stock proxy's table of variables.
std::vector<Row> Rows() {
  using C = const Config&;
  return {
      {"PROXY_MODE", "shared", {}, "sidecar"},
      {"NETWORK", "n", [](C c) { return c.network == "n"; }, ""},
      {"NODE_NAME", "n", [](C c) { return c.node_name == "n"; }, ""},
      {"CLUSTER_ID", "c", [](C c) { return c.control_plane.cluster_id == "c"; }, ""},
      {"ISTIO_META_CLUSTER_ID", "c", [](C c) { return c.control_plane.cluster_id == "c"; }, ""},
      {"TRUST_DOMAIN", "td", [](C c) { return c.trust_domain == "td"; }, ""},
      {"POD_NAMESPACE", "n", [](C c) { return c.pod_namespace == "n"; }, ""},
      {"SERVICE_ACCOUNT", "s", [](C c) { return c.service_account == "s"; }, ""},
      {"POD_NAME", "p", [](C c) { return c.pod_name == "p"; }, ""},
      {"INSTANCE_IP", "10.0.0.1", [](C c) { return c.instance_ip == "10.0.0.1"; }, ""},
      {"XDS_ADDRESS", "a:1", [](C c) { return c.control_plane.xds_address == "https://a:1"; },
       "a:65536"},
      {"CA_ADDRESS", "a:1", [](C c) { return c.control_plane.ca_address == "https://a:1"; },
       "ftp://a:1"},
      {"QANAT_ADMIN_ADDR", "127.0.0.1:1", [](C c) { return c.admin_address == "127.0.0.1:1"; },
       "localhost:15000"},
      {"QANAT_METRICS_ADDR", "[::1]:1", [](C c) { return c.metrics_address == "[::1]:1"; },
       "15020"},
      {"QANAT_READINESS_ADDR", "[::1]:1", [](C c) { return c.readiness_address == "[::1]:1"; },
       "[::1:1"},
      {"QANAT_ENFORCE_WAYPOINT", "false", [](C c) { return !c.enforce_waypoint; }, "x"},
      {"QANAT_ONE_PASS", "false", [](C c) { return !c.one_pass; }, "x"},
      {"QANAT_RESOLV_CONF", "/r", [](C c) { return c.resolv_conf == "/r"; }, ""},
      {"QANAT_TAKEOVER_SOCKET", "/t", [](C c) { return c.takeover_socket == "/t"; }, ""},
      {"XDS_ROOT_CA", "SYSTEM", [](C c) { return c.control_plane.Xds().root_ca == "SYSTEM"; }, ""},
      {"CA_ROOT_CA", "/r", [](C c) { return c.control_plane.Ca().root_ca == "/r"; }, ""},
      {"ALT_XDS_HOSTNAME", "h",
       [](C c) {
         return c.control_plane.Xds().alternative_server_name == "h" &&
                c.control_plane.Ca().alternative_server_name.empty();
       },
       ""},
      {"ALT_CA_HOSTNAME", "h",
       [](C c) {
         return c.control_plane.Ca().alternative_server_name == "h" &&
                c.control_plane.Xds().alternative_server_name.empty();
       },
       ""},
      {"AUTH_TOKEN", "/t", [](C c) { return c.control_plane.auth_token == "/t"; }, ""},
      {"XDS_HEADER_X-Tenant", "a b",
       [](C c) { return c.control_plane.xds_headers == grpc::Metadata{{"x-tenant", "a b"}}; },
       "\n"},
      {"CA_HEADER_Key", "v",
       [](C c) { return c.control_plane.ca_headers == grpc::Metadata{{"key", "v"}}; }, "\x80"},
      {"SECRET_TTL", "90m", [](C c) { return c.secret_ttl.count() == 5400; }, "soon"},
      {"SECRET_TTL", "90m", [](C c) { return c.root_grace.count() == 5400; }, "soon"},
      {"QANAT_ROOT_GRACE", "0s", [](C c) { return c.root_grace.count() == 0; }, "x"},
      {"QANAT_STATE_DIR", "/var/lib/x", [](C c) { return c.state_dir == "/var/lib/x"; }, "var/x"},
      {"QANAT_MAX_STALE", "90m", [](C c) { return c.max_stale == std::chrono::seconds(5400); },
       "old"},
      {"XDS_ON_DEMAND", "true",
       [](C c) { return c.xds_on_demand && !c.dns_capture && c.warnings.size() == 1; }, "maybe"},
      {"LOCAL_XDS_PATH", "/f", [](C c) { return c.local_xds_path == "/f"; }, ""},
      {"LOCAL_XDS", "{}", [](C c) { return c.local_xds == "{}"; }, ""},
      {"PREFERED_SERVICE_NAMESPACE", "n", [](C c) { return c.preferred_service_namespace == "n"; },
       ""},
      {"CLUSTER_DOMAIN", "corp", [](C c) { return c.cluster_domain == "corp"; }, "."},
      {"CLUSTER_DOMAIN", "Corp.Example.", [](C c) { return c.cluster_domain == "corp.example"; },
       ""},
      {"ISTIO_META_DNS_CAPTURE", "false", [](C c) { return !c.dns_capture; }, "x"},
      {"ISTIO_META_DNS_PROXY_ADDR", "127.0.0.1:53",
       [](C c) { return c.dns_address == "127.0.0.1:53"; }, "localhost"},
      {"INPOD_UDS", "/s", [](C c) { return c.inpod_uds == "/s"; }, ""},
      {"INPOD_PORT_REUSE", "false", [](C c) { return !c.reuse_port; }, "no"},
      {"PACKET_MARK", "7", [](C c) { return c.packet_mark == 7; }, "0x539"},
      {"ENABLE_ORIG_SRC", "true", [](C c) { return c.orig_src == true; }, "yes"},
      {"ENABLE_ORIG_SRC", "false", [](C c) { return c.orig_src == false; }, ""},
      {"IPV6_ENABLED", "false", [](C c) { return c.metrics_address == "0.0.0.0:15020" && !c.ipv6; },
       "maybe"},
      {"KEEPALIVE_ENABLED", "false", [](C c) { return !c.keepalive.enabled; }, "off"},
      {"KEEPALIVE_TIME", "30s", [](C c) { return c.keepalive.time.count() == 30; }, "0s"},
      {"KEEPALIVE_INTERVAL", "1m", [](C c) { return c.keepalive.interval.count() == 60; }, "10h"},
      {"KEEPALIVE_RETRIES", "3", [](C c) { return c.keepalive.retries == 3; }, "128"},
      {"USER_TIMEOUT_ENABLED", "true", [](C c) { return c.keepalive.user_timeout; }, "x"},
      {"HTTP2_STREAM_WINDOW_SIZE", "70000", [](C c) { return c.stream_window == 70000; },
       "2147483648"},
      {"HTTP2_STREAM_WINDOW_SIZE", "2147483647", {}, "0"},
      {"HTTP2_CONNECTION_WINDOW_SIZE", "70000", [](C c) { return c.connection_window == 70000; },
       "-1"},
      {"HTTP2_FRAME_SIZE", "16384", [](C c) { return c.frame_size == 16384; }, "1"},
      {"POOL_MAX_STREAMS_PER_CONNECTION", "1", [](C c) { return c.pool_max_streams == 1; }, "0"},
      {"POOL_UNUSED_RELEASE_TIMEOUT", "1s", [](C c) { return c.pool_idle.count() == 1000; }, "x"},
      {"CONNECTION_TERMINATION_DEADLINE", "7s",
       [](C c) { return c.termination_deadline.count() == 7000; }, "x"},
      {"TERMINATION_GRACE_PERIOD_SECONDS", "30",
       [](C c) { return c.termination_deadline.count() == 25000; }, "30s"},
      {"ZTUNNEL_WORKER_THREADS", "3", [](C c) { return c.workers == 3; }, "many"},
      {"ZTUNNEL_RESOURCE_CPU_LIMIT", "3500m", [](C c) { return c.workers == 4; }, "x"},
      {"ZTUNNEL_RESOURCE_CPU_REQUEST", "5", [](C c) { return c.workers == 5; }, "5 cores"},
      {"ZTUNNEL_CPU_LIMIT", "16", [](C c) { return c.workers == 4; }, "-1"},
      {"PROXY_CONFIG", "concurrency: 6", [](C c) { return c.workers == 6; }, "concurrency: x"},
      {"ISTIO_META_X", "v", [](C c) { return c.environment.front() == "ISTIO_META_X=v"; }, ""},
      {"ISTIO_METAJSON_X", "{}", [](C c) { return c.environment.front() == "ISTIO_METAJSON_X={}"; },
       ""},
      {"QANAT_MAX_CONNECTIONS_PER_POD", "7", [](C c) { return c.max_pod_connections == 7; }, "-1"},
      {"QANAT_MEMORY_BUDGET", "100Mi", [](C c) { return c.memory_budget == 100u << 20; }, "1Mi"},
      {"QANAT_MAX_MEMORY_PER_POD", "2000000", [](C c) { return c.max_pod_memory == 2'000'000; },
       "lots"},
      {"QANAT_HEAP_PROFILE_RATE", "0", [](C c) { return c.heap_profile_rate == 0; }, "-1"},
      {"PROXY_CONFIG", "proxyMetadata: {QANAT_MEMORY_BUDGET: 1G}",
       [](C c) { return c.memory_budget == 1'000'000'000; }, ""},
      {"QANAT_HALF_CLOSED_TIMEOUT", "3s", [](C c) { return c.half_closed_timeout.count() == 3000; },
       "x"},
      {"QANAT_IDLE_TUNNEL_TIMEOUT", "3s", [](C c) { return c.idle_tunnel_timeout.count() == 3000; },
       "x"},
      {"LOCALHOST_APP_TUNNEL", "false", [](C c) { return !c.localhost_app_tunnel; }, "x"},
      {"ENABLE_RESPONSE_BAGGAGE", "false", [](C c) { return !c.response_baggage; }, "x"},
      {"TLS12_ENABLED", "true", [](C c) { return c.tls12; }, "x"},
      {"QANAT_SHARED_TUNNELS", "false", [](C c) { return !c.shared_tunnels && !c.shares_own(); },
       "x"},
      {"QANAT_TLS_RESUMPTION", "false", [](C c) { return !c.tls_resumption; }, "x"},
      {"QANAT_EARLY_DATA", "false", [](C c) { return !c.early_data; }, "x"},
      {"UNSTABLE_ENABLE_SOCKS5", "true", [](C c) { return c.socks5; }, "x"},
      {"AUTHZ_POLICY_INFO_LOGGING", "true", [](C c) { return c.authz_info_logging; }, "x"},
      {"RUST_LOG", "debug", [](C c) { return c.log_levels == "debug"; }, ""},
      {"LOG_FORMAT", "json", [](C c) { return c.log_json; }, ""},
      // What would be unsafe to pass over is refused with its name.
      {"ENABLE_PROXY", "true", {}, "false"},
      {"FAKE_CA", "false", {}, "true"},
      {"CRL_PATH", "/crl.pem", [](C c) { return c.crl_path == "/crl.pem"; }, ""},
      {"COMPLIANCE_POLICY", "pqc", [](C c) { return c.post_quantum_only; }, "fips-140-2"},
  };
}

TEST(Config, EveryVariable) {
  const auto plain = From({});
  ASSERT_TRUE(plain.has_value());
  for (const Row& row : Rows()) {
    const auto config = From({{row.name, row.value}});
    ASSERT_TRUE(config.has_value()) << row.name << ": " << config.error().message;
    if (row.set) {
      if (!plain->environment.empty() || !row.name.starts_with("ISTIO_META")) {
        EXPECT_FALSE(row.set(*plain)) << row.name << " changes nothing";
      }
      EXPECT_TRUE(row.set(*config)) << row.name << "=" << row.value;
    }
    if (row.refused.empty()) continue;
    const auto refused = From({{row.name, row.refused}});
    ASSERT_FALSE(refused.has_value()) << row.name << "=" << row.refused;
    EXPECT_THAT(refused.error().message, HasSubstr(row.name));
  }
}

TEST(Config, AmountsOfMemory) {
  const auto budget = [](const char* text) {
    const auto config = From({{"QANAT_MEMORY_BUDGET", text}});
    return config ? config->memory_budget : 0;
  };
  EXPECT_EQ(budget("16777216"), 16u << 20);
  EXPECT_EQ(budget("20000k"), 20'000'000u);
  EXPECT_EQ(budget("3Gi"), uint64_t{3} << 30);
  EXPECT_EQ(budget("1048576Gi"), uint64_t{1} << 50);
  for (const char* bad : {"16777215", "0", "-1", "1T", "Mi", "1 Gi", "1.5Gi",
                          "18446744073709551615", "18446744073709551616", "99999999999Gi"}) {
    EXPECT_EQ(budget(bad), 0u) << bad;
  }
}

TEST(Config, Dedicated) {
  const auto config =
      From({{"PROXY_MODE", "dedicated"}, {"PROXY_WORKLOAD_INFO", "shop/frontend/front"}});
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(config->mode, Config::Mode::kDedicated);
  EXPECT_EQ(config->dedicated, (PodIdentity{"shop", "frontend", "front"}));
  // Marks are of the capture that a node agent makes; there is none in this mode.
  EXPECT_EQ(From({})->mode, Config::Mode::kShared);
  EXPECT_EQ(From({})->packet_mark, 1337u);
  EXPECT_EQ(config->packet_mark, 0u);
  EXPECT_FALSE(config->self_proxy());
  const auto marked = From({{"PROXY_MODE", "dedicated"},
                            {"PROXY_WORKLOAD_INFO", "shop/frontend/front"},
                            {"PACKET_MARK", "7"}});
  EXPECT_EQ(marked->packet_mark, 7u);
  for (const char* bad : {"", "shop", "shop/frontend", "/frontend/front", "a/b/", "a/b/c/d"}) {
    const auto refused = From({{"PROXY_MODE", "dedicated"}, {"PROXY_WORKLOAD_INFO", bad}});
    ASSERT_FALSE(refused.has_value()) << bad;
    EXPECT_THAT(refused.error().message, HasSubstr("PROXY_WORKLOAD_INFO"));
  }
}

TEST(Config, SelfProxyNeedsItsWholeName) {
  const Variables whole = {
      {"POD_NAME", "ztunnel-x"}, {"POD_NAMESPACE", "system"}, {"SERVICE_ACCOUNT", "ztunnel"}};
  EXPECT_TRUE(From(whole)->self_proxy());
  for (const auto& [name, value] : whole) {
    Variables part = whole;
    part.erase(name);
    EXPECT_FALSE(From(part)->self_proxy()) << name;
  }
}

TEST(Config, SharedTunnelsAreOurPodsWhichATakeOverOutlives) {
  const Variables takeover = {{"QANAT_TAKEOVER_SOCKET", "/run/x.sock"}};
  EXPECT_TRUE(From({})->shared_tunnels && From({})->shares_own());
  EXPECT_TRUE(From(takeover)->shared_tunnels) << "others' streams are taken";
  EXPECT_FALSE(From(takeover)->shares_own());
  Variables asked = takeover;
  asked.emplace("QANAT_SHARED_TUNNELS", "true");
  EXPECT_TRUE(From(asked)->shares_own());
}

TEST(Config, OneOfTwo) {
  EXPECT_FALSE(From({{"LOCAL_XDS_PATH", "/f"}, {"LOCAL_XDS", "{}"}}).has_value());
  const auto both = From({{"CLUSTER_ID", "a"}, {"ISTIO_META_CLUSTER_ID", "b"}});
  EXPECT_EQ(both->control_plane.cluster_id, "b");
  EXPECT_EQ(From({{"XDS_ADDRESS", ""}})->control_plane.xds_address, "");  // none at all
}

TEST(Config, AddressesOfTheDnsProxy) {
  EXPECT_EQ(From({})->dns_address, "localhost:15053");
  for (const char* bad :
       {"localhost:", "localhost:0", "localhost:15053x", "x:53", "127.0.0.1", "127.0.0.1:0", ""}) {
    EXPECT_FALSE(From({{"ISTIO_META_DNS_PROXY_ADDR", bad}}).has_value()) << bad;
  }
}

TEST(Config, Workers) {
  const auto workers = [](const Variables& v, unsigned cores = 8) {
    return From(v, cores)->workers;
  };
  EXPECT_EQ(workers({{"ZTUNNEL_WORKER_THREADS", "50%"}}), 4u);
  EXPECT_EQ(workers({{"ZTUNNEL_WORKER_THREADS", "1%"}}), 1u);
  EXPECT_EQ(workers({{"ZTUNNEL_WORKER_THREADS", "0"}}), 8u);
  EXPECT_EQ(workers({{"ZTUNNEL_WORKER_THREADS", "auto"}}, 1), 2u);
  EXPECT_EQ(workers({{"ZTUNNEL_WORKER_THREADS", "64"}}, 64), 16u);  // slots of the agent's map
  EXPECT_EQ(workers({}, 64), 16u);
  EXPECT_EQ(workers({}, 12), 3u);
  // The limit wins, but never below the request; no limit: at least two.
  EXPECT_EQ(workers({{"ZTUNNEL_RESOURCE_CPU_LIMIT", "1"}}, 64), 1u);
  EXPECT_EQ(
      workers({{"ZTUNNEL_RESOURCE_CPU_LIMIT", "1"}, {"ZTUNNEL_RESOURCE_CPU_REQUEST", "2200m"}}),
      3u);
  EXPECT_EQ(workers({{"ZTUNNEL_RESOURCE_CPU_REQUEST", "200m"}}), 2u);
  EXPECT_EQ(workers({{"ZTUNNEL_RESOURCE_CPU_LIMIT", "0"}}), 2u);
  // A percentage is of what we may use.
  EXPECT_EQ(workers({{"ZTUNNEL_WORKER_THREADS", "50%"}, {"ZTUNNEL_CPU_LIMIT", "4"}}, 64), 2u);
  // The environment goes above the ProxyConfig.
  EXPECT_EQ(workers({{"ZTUNNEL_WORKER_THREADS", "3"}, {"PROXY_CONFIG", "concurrency: 6"}}), 3u);
  EXPECT_EQ(workers({{"PROXY_CONFIG", "concurrency: 0"}}), 8u);
}

TEST(Config, MeshFileBelowProxyConfigBelowEnvironment) {
  const std::string mesh = R"(
trustDomain: ignored
defaultConfig:
  discoveryAddress: mesh:1
  proxyAdminPort: 15099
  statsPort: 15888
  proxyMetadata: {ISTIO_META_A: mesh, ISTIO_META_CLUSTER_ID: mesh, B: mesh}
)";
  const std::string own = R"({"discoveryAddress": "own:2", "proxyMetadata": {"B": "own"}})";
  auto config = From({}, 8, mesh);
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(config->control_plane.xds_address, "https://mesh:1");
  EXPECT_EQ(config->control_plane.ca_address, "https://localhost:15012");
  EXPECT_EQ(config->admin_address, "127.0.0.1:15099");
  EXPECT_EQ(config->metrics_address, "[::]:15888");
  EXPECT_EQ(config->control_plane.cluster_id, "mesh");
  EXPECT_THAT(config->environment, Contains("ISTIO_META_A=mesh"));
  EXPECT_THAT(config->environment, Contains("ISTIO_META_B=mesh"));
  config = From({{"PROXY_CONFIG", own}, {"ISTIO_META_A", "env"}, {"IPV6_ENABLED", "0"}}, 8, mesh);
  EXPECT_EQ(config->control_plane.xds_address, "https://own:2");
  EXPECT_EQ(config->metrics_address, "0.0.0.0:15888");
  EXPECT_THAT(config->environment, Contains("ISTIO_META_B=own"));
  EXPECT_EQ(config->environment.back(), "PROXY_CONFIG=" + own);  // the environment comes last
  config = From({{"PROXY_CONFIG", own}, {"XDS_ADDRESS", "env:3"}}, 8, mesh);
  EXPECT_EQ(config->control_plane.xds_address, "https://env:3");
  EXPECT_FALSE(From({}, 8, "defaultConfig: [").has_value());
}

TEST(Config, OnDemandExcludesTheDnsProxy) {
  EXPECT_FALSE(From({{"XDS_ON_DEMAND", "true"}, {"ISTIO_META_DNS_CAPTURE", "true"}}).has_value());
  const auto config = From({{"XDS_ON_DEMAND", "true"}, {"ISTIO_META_DNS_CAPTURE", "false"}});
  ASSERT_TRUE(config.has_value());
  EXPECT_THAT(config->warnings, IsEmpty());
}

TEST(Config, LogFormatsThatNobodyKnowsAreSaid) {
  EXPECT_THAT(From({{"LOG_FORMAT", "xml"}})->warnings, Contains(HasSubstr("LOG_FORMAT")));
  EXPECT_THAT(From({{"LOG_FORMAT", "plain"}})->warnings, IsEmpty());
}

}  // namespace
}  // namespace qanat::ztunnel
