// SPDX-License-Identifier: Apache-2.0
// envoy.config.cluster.v3.Cluster and ClusterLoadAssignment -> ClusterConfig, EndpointSet.
#include <envoy/config/cluster/v3/cluster.pb.h>
#include <envoy/config/endpoint/v3/endpoint.pb.h>
#include <envoy/extensions/load_balancing_policies/least_request/v3/least_request.pb.h>
#include <envoy/extensions/transport_sockets/internal_upstream/v3/internal_upstream.pb.h>
#include <envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.pb.h>
#include <envoy/extensions/upstreams/http/v3/http_protocol_options.pb.h>

#include "waypoint/config/decode.h"
#include "waypoint/config/decode_common.h"

namespace qanat::waypoint {
namespace {

namespace cluster = envoy::config::cluster::v3;
namespace endpoint = envoy::config::endpoint::v3;
using HttpOptions = envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
using InternalUpstream =
    envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
using RawBuffer = envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;

// Names of Envoy's internal listener that opens tunnels.
bool OpensTunnel(const std::string& listener) { return listener == "connect_originate"; }

WorkloadLabels LabelsOf(const envoy::config::core::v3::Metadata& metadata) {
  WorkloadLabels out;
  // istiod: five fields, semicolons between.
  std::string text = MetadataString(metadata, "istio", "workload");
  std::string* fields[] = {&out.workload, &out.ns, &out.canonical_name, &out.canonical_revision,
                           &out.cluster};
  size_t from = 0;
  for (std::string* field : fields) {
    if (from > text.size()) break;
    size_t end = text.find(';', from);
    *field = text.substr(from, end == std::string::npos ? end : end - from);
    if (end == std::string::npos) break;
    from = end + 1;
  }
  auto prefer = [&](const char* key, std::string& into) {
    std::string value = MetadataString(metadata, "qanat", key);
    if (!value.empty()) into = std::move(value);
  };
  prefer("workload", out.workload);
  prefer("namespace", out.ns);
  prefer("canonical_service", out.canonical_name);
  prefer("canonical_revision", out.canonical_revision);
  prefer("cluster", out.cluster);
  prefer("app", out.app);
  prefer("version", out.version);
  return out;
}

Result<Endpoint> DecodeEndpoint(const endpoint::LbEndpoint& in) {
  using envoy::config::core::v3::Address;
  Endpoint out;
  if (in.host_identifier_case() != endpoint::LbEndpoint::kEndpoint) {
    return Unsupported("an endpoint by name");
  }
  const Address& address = in.endpoint().address();
  out.identity = MetadataString(in.metadata(), "qanat", "identity");
  switch (address.address_case()) {
    case Address::kSocketAddress: {
      QANAT_ASSIGN_OR_RETURN(out.address, DecodeSocketAddress(address.socket_address()));
      break;
    }
    case Address::kEnvoyInternalAddress: {
      const auto& internal = address.envoy_internal_address();
      if (!OpensTunnel(internal.server_listener_name())) {
        return Unsupported(
            fmt::format("endpoint behind internal listener {}", internal.server_listener_name()));
      }
      std::string local =
          MetadataString(in.metadata(), "envoy.filters.listener.original_dst", "local");
      if (local.empty()) local = internal.endpoint_id();
      QANAT_ASSIGN_OR_RETURN(out.address, net::SocketAddress::Parse(local));
      out.hbone = true;
      if (!MetadataString(in.metadata(), "envoy.filters.listener.original_dst", "waypoint")
               .empty()) {
        return Unsupported("an endpoint behind another waypoint");
      }
      std::string tunnel = MetadataString(in.metadata(), "qanat", "hbone");
      if (tunnel.empty()) {
        out.tunnel = net::SocketAddress(out.address.ip(), 15008);
      } else {
        QANAT_ASSIGN_OR_RETURN(out.tunnel, net::SocketAddress::Parse(tunnel));
      }
      break;
    }
    case Address::kPipe:
    case Address::ADDRESS_NOT_SET: return Unsupported("an endpoint without an IP address");
  }
  out.hostname = in.endpoint().hostname();
  out.weight = in.has_load_balancing_weight() ? in.load_balancing_weight().value() : 1;
  switch (static_cast<int>(in.health_status())) {
    case envoy::config::core::v3::UNKNOWN:
    case envoy::config::core::v3::HEALTHY:
    case envoy::config::core::v3::DEGRADED: out.healthy = true; break;
    default: out.healthy = false; break;
  }
  out.labels = LabelsOf(in.metadata());
  return out;
}

Result<std::shared_ptr<const EndpointSet>> DecodeAssignment(
    const endpoint::ClusterLoadAssignment& in) {
  auto out = std::make_shared<EndpointSet>();
  out->cluster = in.cluster_name();
  for (const auto& locality : in.endpoints()) {
    if (locality.lb_config_case() != endpoint::LocalityLbEndpoints::LB_CONFIG_NOT_SET) {
      return Unsupported("LEDS");
    }
    for (const auto& e : locality.lb_endpoints()) {
      QANAT_ASSIGN_OR_RETURN(Endpoint decoded, DecodeEndpoint(e));
      decoded.priority = locality.priority();
      out->endpoints.push_back(std::move(decoded));
    }
  }
  return out;
}

// Plaintext inside the tunnel is what we do; TLS to the application itself is not.
Status CheckTransport(const envoy::config::core::v3::TransportSocket& in) {
  if (in.name().empty() && !in.has_typed_config()) return {};
  const google::protobuf::Any& any = in.typed_config();
  if (Is<RawBuffer>(any)) return {};
  if (Is<InternalUpstream>(any)) {
    QANAT_ASSIGN_OR_RETURN(InternalUpstream inner, Unpack<InternalUpstream>(any));
    return CheckTransport(inner.transport_socket());
  }
  return Unsupported(fmt::format("transport socket {}: TLS to the application", any.type_url()));
}

Status DecodeLb(const cluster::Cluster& in, ClusterConfig& out) {
  using In = cluster::Cluster;
  if (in.has_load_balancing_policy()) {
    for (const auto& policy : in.load_balancing_policy().policies()) {
      const auto& any = policy.typed_extension_config().typed_config();
      using LeastRequest =
          envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
      std::string_view type = TypeName(any);
      if (Is<LeastRequest>(any)) {
        QANAT_ASSIGN_OR_RETURN(LeastRequest least, Unpack<LeastRequest>(any));
        out.lb = LbPolicy::kLeastRequest;
        if (least.has_choice_count()) out.lb_choices = least.choice_count().value();
        return {};
      }
      if (type == "envoy.extensions.load_balancing_policies.random.v3.Random") {
        out.lb = LbPolicy::kRandom;
        return {};
      }
      if (type == "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin") {
        out.lb = LbPolicy::kRoundRobin;
        return {};
      }
    }
    return Unsupported("load_balancing_policy without a policy known to us");
  }
  switch (static_cast<int>(in.lb_policy())) {
    case In::ROUND_ROBIN: out.lb = LbPolicy::kRoundRobin; return {};
    case In::LEAST_REQUEST:
      out.lb = LbPolicy::kLeastRequest;
      if (in.least_request_lb_config().has_choice_count()) {
        out.lb_choices = in.least_request_lb_config().choice_count().value();
      }
      return {};
    case In::RANDOM: out.lb = LbPolicy::kRandom; return {};
    case In::RING_HASH:
    case In::MAGLEV: return Unsupported("consistent hashing (lb_policy RING_HASH or MAGLEV)");
    default: return Unsupported(fmt::format("lb_policy {}", int(in.lb_policy())));
  }
}

Status DecodeProtocol(const cluster::Cluster& in, ClusterConfig& out) {
  if (in.has_http2_protocol_options()) out.protocol = UpstreamProtocol::kHttp2;
  if (in.protocol_selection() == cluster::Cluster::USE_DOWNSTREAM_PROTOCOL) {
    out.protocol = UpstreamProtocol::kLikeDownstream;
  }
  if (in.has_common_http_protocol_options()) {
    const auto& c = in.common_http_protocol_options();
    if (c.has_idle_timeout()) out.idle_timeout = ToMs(c.idle_timeout());
    out.max_requests_per_connection = c.max_requests_per_connection().value();
  }
  for (const auto& [name, any] : in.typed_extension_protocol_options()) {
    if (!Is<HttpOptions>(any)) {
      // TCP protocol options of Istio's filters carry nothing for the path of bytes.
      continue;
    }
    QANAT_ASSIGN_OR_RETURN(HttpOptions options, Unpack<HttpOptions>(any));
    const auto& c = options.common_http_protocol_options();
    if (c.has_idle_timeout()) out.idle_timeout = ToMs(c.idle_timeout());
    if (c.has_max_requests_per_connection()) {
      out.max_requests_per_connection = c.max_requests_per_connection().value();
    }
    switch (options.upstream_protocol_options_case()) {
      case HttpOptions::kExplicitHttpConfig: {
        const auto& e = options.explicit_http_config();
        if (e.has_http3_protocol_options()) return Unsupported("HTTP/3 upstream");
        out.protocol =
            e.has_http2_protocol_options() ? UpstreamProtocol::kHttp2 : UpstreamProtocol::kHttp1;
        break;
      }
      case HttpOptions::kUseDownstreamProtocolConfig:
        out.protocol = UpstreamProtocol::kLikeDownstream;
        break;
      // ALPN decides between the two; without TLS that is HTTP/1.1.
      case HttpOptions::kAutoConfig: out.protocol = UpstreamProtocol::kHttp1; break;
      case HttpOptions::UPSTREAM_PROTOCOL_OPTIONS_NOT_SET: break;
    }
  }
  return {};
}

void DecodeLimits(const cluster::Cluster& in, ClusterConfig& out) {
  for (const auto& t : in.circuit_breakers().thresholds()) {
    if (t.priority() != envoy::config::core::v3::DEFAULT) continue;
    // Envoy's defaults are 1024 each and 3 retries; Istio always says its own (2^32-1 = none).
    out.max_connections = t.has_max_connections() ? t.max_connections().value() : 1024;
    out.max_pending = t.has_max_pending_requests() ? t.max_pending_requests().value() : 1024;
    out.max_requests = t.has_max_requests() ? t.max_requests().value() : 1024;
    out.max_retries = t.has_max_retries() ? t.max_retries().value() : 3;
  }
  if (in.has_outlier_detection()) {
    const auto& o = in.outlier_detection();
    OutlierConfig outlier;
    // Unset: Envoy's 5, enforced.
    outlier.consecutive_5xx = o.has_consecutive_5xx() ? o.consecutive_5xx().value() : 5;
    if (o.has_enforcing_consecutive_5xx() && o.enforcing_consecutive_5xx().value() == 0) {
      outlier.consecutive_5xx = 0;
    }
    if (o.enforcing_consecutive_gateway_failure().value() > 0) {
      outlier.consecutive_gateway =
          o.has_consecutive_gateway_failure() ? o.consecutive_gateway_failure().value() : 5;
    }
    if (o.has_base_ejection_time()) outlier.base_ejection = ToMs(o.base_ejection_time());
    if (o.has_max_ejection_time()) outlier.max_ejection = ToMs(o.max_ejection_time());
    if (o.has_max_ejection_percent()) {
      outlier.max_ejection_percent = std::min<uint32_t>(100, o.max_ejection_percent().value());
    }
    if (outlier.max_ejection < outlier.base_ejection) outlier.max_ejection = outlier.base_ejection;
    out.outlier = outlier;
  }
}

void DecodeService(const cluster::Cluster& in, ClusterConfig& out) {
  out.subset = MetadataString(in.metadata(), "istio", "subset");
  auto istio = in.metadata().filter_metadata().find("istio");
  if (istio == in.metadata().filter_metadata().end()) return;
  auto services = istio->second.fields().find("services");
  if (services == istio->second.fields().end()) return;
  const auto& list = services->second.list_value().values();
  if (list.empty()) return;
  auto text = [&](const char* key) {
    const auto& fields = list[0].struct_value().fields();
    auto it = fields.find(key);
    return it == fields.end() ? std::string() : it->second.string_value();
  };
  out.service_host = text("host");
  out.service_name = text("name");
  out.service_namespace = text("namespace");
}

}  // namespace

Result<Decoded<ClusterConfig>> DecodeCluster(std::string_view bytes) {
  using In = cluster::Cluster;
  In in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Invalid("Cluster does not parse");
  }
  auto out = std::make_shared<ClusterConfig>();
  out->name = in.name();
  if (in.has_connect_timeout()) out->connect_timeout = ToMs(in.connect_timeout());
  if (in.has_cluster_type()) return Unsupported("cluster_type " + in.cluster_type().name());
  auto finish = [&] { return Decoded<ClusterConfig>{out, {}}; };
  switch (static_cast<int>(in.type())) {
    case In::EDS:
      out->eds_name = in.eds_cluster_config().service_name().empty()
                          ? in.name()
                          : in.eds_cluster_config().service_name();
      break;
    case In::STATIC: {
      auto endpoints = DecodeAssignment(in.load_assignment());
      if (!endpoints) {
        // Envoy's way from its tunnel listener to its inner one.
        bool inner = false;
        for (const auto& l : in.load_assignment().endpoints()) {
          for (const auto& e : l.lb_endpoints()) {
            inner = inner || e.endpoint().address().has_envoy_internal_address();
          }
        }
        if (!inner) return Fail(endpoints.error());
        out->plumbing = true;
        return finish();
      }
      out->inline_endpoints = std::move(*endpoints);
      break;
    }
    case In::ORIGINAL_DST: out->plumbing = true; return finish();
    default: return Unsupported(fmt::format("cluster type {} (DNS)", int(in.type())));
  }
  QANAT_RETURN_IF_ERROR(CheckTransport(in.transport_socket()));
  for (const auto& match : in.transport_socket_matches()) {
    QANAT_RETURN_IF_ERROR(CheckTransport(match.transport_socket()));
  }
  QANAT_RETURN_IF_ERROR(DecodeLb(in, *out));
  QANAT_RETURN_IF_ERROR(DecodeProtocol(in, *out));
  if (in.has_max_requests_per_connection()) {
    out->max_requests_per_connection = in.max_requests_per_connection().value();
  }
  DecodeLimits(in, *out);
  DecodeService(in, *out);
  return finish();
}

Result<Decoded<EndpointSet>> DecodeEndpoints(std::string_view bytes) {
  endpoint::ClusterLoadAssignment in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Invalid("ClusterLoadAssignment does not parse");
  }
  Decoded<EndpointSet> out;
  QANAT_ASSIGN_OR_RETURN(out.value, DecodeAssignment(in));
  return out;
}

}  // namespace qanat::waypoint
