// SPDX-License-Identifier: Apache-2.0
// networking.istio.io DestinationRule.
#include <fmt/format.h>

#include <set>

#include "controlplane/source/decode.h"

namespace qanat::controlplane {
namespace {

std::optional<uint32_t> Count(MapReader& reader, std::string_view key) {
  const auto value = reader.Int(key, 0, 4294967295);
  if (!value) return std::nullopt;
  return static_cast<uint32_t>(*value);
}

void ReadConsistentHash(MapReader reader, LoadBalancerPolicy& out) {
  if (!reader.present()) return;
  using Key = LoadBalancerPolicy::HashKey;
  int keys = 0;
  if (std::string name = reader.String("httpHeaderName"); !name.empty()) {
    out.hash = Key::kHeader;
    out.hash_name = std::move(name);
    ++keys;
  }
  if (std::string name = reader.String("httpQueryParameterName"); !name.empty()) {
    out.hash = Key::kQueryParameter;
    out.hash_name = std::move(name);
    ++keys;
  }
  if (reader.Bool("useSourceIp")) {
    out.hash = Key::kSourceIp;
    ++keys;
  }
  MapReader cookie = reader.Map("httpCookie");
  if (cookie.present()) {
    out.hash = Key::kCookie;
    out.cookie.name = cookie.String("name");
    out.cookie.path = cookie.String("path");
    out.cookie.ttl = cookie.Duration("ttl");
    if (out.cookie.name.empty()) cookie.Bad(cookie.line(), "name", "is missing");
    cookie.NotServed("attributes", "the cookie is made without further attributes");
    cookie.Finish();
    ++keys;
  }
  if (keys != 1) {
    reader.Bad(reader.line(), "consistentHash", "wants exactly one key",
               "use one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName");
  }
  MapReader ring = reader.Map("ringHash");
  if (const auto size = ring.Int("minimumRingSize", 1, 8'388'608)) {
    out.minimum_ring_size = static_cast<uint64_t>(*size);
  }
  ring.Finish();
  if (const auto size = reader.Int("minimumRingSize", 1, 8'388'608)) {  // the older place
    out.minimum_ring_size = static_cast<uint64_t>(*size);
  }
  MapReader maglev = reader.Map("maglev");
  if (maglev.present()) {
    out.maglev_table_size =
        static_cast<uint64_t>(maglev.Int("tableSize", 2, 5'000'011).value_or(65537));
  }
  maglev.Finish();
  reader.Finish();
}

LoadBalancerPolicy ReadLoadBalancer(MapReader reader) {
  LoadBalancerPolicy out;
  using Simple = LoadBalancerPolicy::Simple;
  const std::string simple = reader.String("simple");
  if (simple == "LEAST_REQUEST") {
    out.simple = Simple::kLeastRequest;
  } else if (simple == "LEAST_CONN") {
    out.simple = Simple::kLeastRequest;
    reader.context().Warn(reader.line(), "loadBalancer.simple: LEAST_CONN is deprecated",
                          "write LEAST_REQUEST, which is what happens");
  } else if (simple == "ROUND_ROBIN") {
    out.simple = Simple::kRoundRobin;
  } else if (simple == "RANDOM") {
    out.simple = Simple::kRandom;
  } else if (simple == "PASSTHROUGH") {
    out.simple = Simple::kPassthrough;
  } else if (!simple.empty() && simple != "UNSPECIFIED") {
    reader.Bad(reader.line(), "simple", fmt::format("\"{}\" is not a load balancer", simple),
               "use LEAST_REQUEST, ROUND_ROBIN, RANDOM or PASSTHROUGH");
  }
  ReadConsistentHash(reader.Map("consistentHash"), out);
  MapReader warmup = reader.Map("warmup");
  out.warmup = warmup.Duration("duration");
  warmup.Ignore({"minimumPercent", "aggression"});
  warmup.Finish();
  if (const auto old = reader.Duration("warmupDurationSecs")) out.warmup = old;
  reader.NotServed("localityLbSetting", "set trafficDistribution on the Service");
  reader.NotServed("zoneAwareLbSetting", "set trafficDistribution on the Service");
  reader.Finish();
  return out;
}

ConnectionPool ReadConnectionPool(MapReader reader) {
  ConnectionPool out;
  MapReader tcp = reader.Map("tcp");
  out.max_connections = Count(tcp, "maxConnections");
  out.connect_timeout = tcp.Duration("connectTimeout");
  out.max_connection_duration = tcp.Duration("maxConnectionDuration");
  out.tcp_idle_timeout = tcp.Duration("idleTimeout");
  tcp.NotServed("tcpKeepalive", "connections to pods run inside tunnels, which have keepalive");
  tcp.Finish();
  MapReader http = reader.Map("http");
  out.http1_max_pending_requests = Count(http, "http1MaxPendingRequests");
  out.http2_max_requests = Count(http, "http2MaxRequests");
  out.max_requests_per_connection = Count(http, "maxRequestsPerConnection");
  out.max_retries = Count(http, "maxRetries");
  out.max_concurrent_streams = Count(http, "maxConcurrentStreams");
  out.http_idle_timeout = http.Duration("idleTimeout");
  const std::string upgrade = http.String("h2UpgradePolicy");
  if (upgrade == "UPGRADE") out.h2_upgrade = true;
  if (upgrade == "DO_NOT_UPGRADE") out.h2_upgrade = false;
  out.use_client_protocol = http.MaybeBool("useClientProtocol");
  http.NotServed("http2KeepAlive", "connections to pods run inside tunnels, which have keepalive");
  http.Finish();
  reader.Finish();
  return out;
}

OutlierDetection ReadOutlier(MapReader reader) {
  OutlierDetection out;
  out.consecutive_5xx = Count(reader, "consecutive5xxErrors");
  out.consecutive_gateway_errors = Count(reader, "consecutiveGatewayErrors");
  out.consecutive_local_origin_failures = Count(reader, "consecutiveLocalOriginFailures");
  out.split_external_local_origin_errors = reader.MaybeBool("splitExternalLocalOriginErrors");
  if (const auto old = Count(reader, "consecutiveErrors")) {
    if (!out.consecutive_gateway_errors) out.consecutive_gateway_errors = old;
    reader.context().Warn(reader.line(),
                          "outlierDetection.consecutiveErrors is deprecated: taken as "
                          "consecutiveGatewayErrors (502, 503, 504)",
                          fmt::format("write consecutive5xxErrors: {} to count every 5xx, or "
                                      "consecutiveGatewayErrors: {}",
                                      *old, *old));
  }
  out.interval = reader.Duration("interval");
  out.base_ejection_time = reader.Duration("baseEjectionTime");
  if (const auto value = reader.Int("maxEjectionPercent", 0, 100)) {
    out.max_ejection_percent = static_cast<uint32_t>(*value);
  }
  if (const auto value = reader.Int("minHealthPercent", 0, 100)) {
    out.min_health_percent = static_cast<uint32_t>(*value);
  }
  reader.Finish();
  return out;
}

ClientTls ReadTls(MapReader reader) {
  ClientTls out;
  const std::string mode = reader.String("mode");
  if (mode == "SIMPLE") {
    out.mode = ClientTls::Mode::kSimple;
  } else if (mode == "MUTUAL") {
    out.mode = ClientTls::Mode::kMutual;
  } else if (mode == "ISTIO_MUTUAL") {
    out.mode = ClientTls::Mode::kIstioMutual;
  } else if (!mode.empty() && mode != "DISABLE") {
    reader.Bad(reader.line(), "mode", fmt::format("\"{}\" is not a TLS mode", mode),
               "use DISABLE, SIMPLE, MUTUAL or ISTIO_MUTUAL");
  }
  out.sni = reader.String("sni");
  out.subject_alt_names = reader.Strings("subjectAltNames");
  out.credential_name = reader.String("credentialName");
  out.ca_certificates = reader.String("caCertificates");
  out.client_certificate = reader.String("clientCertificate");
  out.private_key = reader.String("privateKey");
  out.insecure_skip_verify = reader.Bool("insecureSkipVerify");
  reader.NotServed("caCrl", "revocation lists are not served");
  reader.Finish();
  return out;
}

TrafficSettings ReadSettings(MapReader& reader) {
  TrafficSettings out;
  if (MapReader r = reader.Map("loadBalancer"); r.present()) {
    out.load_balancer = ReadLoadBalancer(std::move(r));
  }
  if (MapReader r = reader.Map("connectionPool"); r.present()) {
    out.connection_pool = ReadConnectionPool(std::move(r));
  }
  if (MapReader r = reader.Map("outlierDetection"); r.present()) {
    out.outlier_detection = ReadOutlier(std::move(r));
  }
  if (MapReader r = reader.Map("tls"); r.present()) out.tls = ReadTls(std::move(r));
  return out;
}

std::optional<TrafficPolicy> ReadPolicy(MapReader reader) {
  if (!reader.present()) return std::nullopt;
  TrafficPolicy out;
  out.settings = ReadSettings(reader);
  for (const YamlNode* node : reader.Items("portLevelSettings")) {
    MapReader port(node, reader.PathOf("portLevelSettings"), reader.context());
    MapReader number = port.Map("port");
    const uint16_t value = number.Port("number");
    number.Finish();
    if (value == 0 && !reader.context().failed) {
      port.Bad(node->line, "port.number", "is missing");
    }
    out.ports.emplace_back(value, ReadSettings(port));
    port.Finish();
  }
  reader.NotServed("tunnel", "traffic between pods is already tunnelled");
  reader.NotServed("proxyProtocol", "not served yet");
  reader.NotServed("retryBudget", "use connectionPool.http.maxRetries");
  reader.Finish();
  return out;
}

}  // namespace

AnyObject DecodeDestinationRule(ObjectMeta meta, MapReader& root) {
  DestinationRule out;
  out.meta = std::move(meta);
  MapReader spec = root.Map("spec");
  out.host = spec.String("host");
  if (out.host.empty()) {
    spec.Bad(spec.line(), "host", "is missing", "name the service that the rule is for");
  }
  out.policy = ReadPolicy(spec.Map("trafficPolicy"));
  std::set<std::string> names;
  for (const YamlNode* node : spec.Items("subsets")) {
    MapReader reader(node, "spec.subsets", root.context());
    Subset subset;
    subset.line = node->line;
    subset.name = reader.String("name");
    subset.labels = reader.StringMap("labels");
    subset.policy = ReadPolicy(reader.Map("trafficPolicy"));
    reader.Finish();
    if (subset.name.empty()) {
      reader.Bad(node->line, "name", "is missing");
    } else if (!names.insert(subset.name).second) {
      reader.Bad(node->line, "name", fmt::format("subset {} is given twice", subset.name),
                 "give each subset its own name");
    }
    out.subsets.push_back(std::move(subset));
  }
  out.export_to = spec.Strings("exportTo");
  spec.NotServed("workloadSelector", "a rule counts for every client of the host");
  spec.Finish();
  return out;
}

}  // namespace qanat::controlplane
