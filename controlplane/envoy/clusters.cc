// SPDX-License-Identifier: Apache-2.0
// CDS: where the chains and routes lead to.
#include <google/protobuf/wrappers.pb.h>

#include <algorithm>
#include <utility>

#include "controlplane/envoy/names.h"
#include "controlplane/envoy/proto_util.h"
#include "controlplane/envoy/scope.h"
#include "controlplane/envoy/shared_parts.h"
#include "envoy/config/cluster/v3/cluster.pb.h"
#include "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.pb.h"
#include "envoy/extensions/transport_sockets/internal_upstream/v3/internal_upstream.pb.h"
#include "envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.pb.h"
#include "envoy/extensions/transport_sockets/tls/v3/tls.pb.h"
#include "envoy/extensions/upstreams/http/v3/http_protocol_options.pb.h"

namespace qanat::controlplane {
namespace {

namespace cluster_v3 = envoy::config::cluster::v3;
using cluster_v3::Cluster;
using InternalUpstream =
    envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
using HttpOptions = envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
using RawBuffer = envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
using TransportSocket = envoy::config::core::v3::TransportSocket;

void SetRaw(TransportSocket* socket) {
  socket->set_name("envoy.transport_sockets.raw_buffer");
  PackInto(socket->mutable_typed_config(), RawBuffer());
}

// A connection inside the proxy, which takes the endpoint's metadata along.
void SetInternal(bool with_endpoint, TransportSocket* socket) {
  InternalUpstream upstream;
  if (with_endpoint) {
    for (const std::string_view name : {envoy_names::kOriginalDstMetadata,
                                        envoy_names::kQanatMetadata, envoy_names::kIstioMetadata}) {
      auto* passed = upstream.add_passthrough_metadata();
      passed->mutable_kind()->mutable_host();
      passed->set_name(std::string(name));
    }
  }
  SetRaw(upstream.mutable_transport_socket());
  socket->set_name("envoy.transport_sockets.internal_upstream");
  PackInto(socket->mutable_typed_config(), upstream);
}

void SetHttpOptions(const HttpOptions& options, Cluster* cluster) {
  PackInto(&(*cluster->mutable_typed_extension_protocol_options())
               ["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"],
           options);
}

// --- The constant ones -------------------------------------------------------------------------

Cluster MainInternal() {
  Cluster cluster;
  cluster.set_name(std::string(envoy_names::kMainInternal));
  cluster.set_type(Cluster::STATIC);
  cluster.mutable_load_assignment()->set_cluster_name(cluster.name());
  cluster.mutable_load_assignment()
      ->add_endpoints()
      ->add_lb_endpoints()
      ->mutable_endpoint()
      ->mutable_address()
      ->mutable_envoy_internal_address()
      ->set_server_listener_name(std::string(envoy_names::kMainInternal));
  SetInternal(false, cluster.mutable_transport_socket());
  return cluster;
}

Cluster ConnectOriginate(const std::string& trust_domain) {
  Cluster cluster;
  cluster.set_name(std::string(envoy_names::kConnectOriginate));
  cluster.set_type(Cluster::ORIGINAL_DST);
  cluster.set_lb_policy(Cluster::CLUSTER_PROVIDED);
  cluster.mutable_connect_timeout()->set_seconds(10);
  cluster.mutable_cleanup_interval()->set_seconds(60);
  cluster.mutable_original_dst_lb_config()->mutable_upstream_port_override()->set_value(
      envoy_names::kHbonePort);
  HttpOptions options;
  auto* http2 = options.mutable_explicit_http_config()->mutable_http2_protocol_options();
  http2->set_allow_connect(true);
  http2->mutable_connection_keepalive()->mutable_interval()->set_seconds(10);
  http2->mutable_connection_keepalive()->mutable_timeout()->set_seconds(20);
  options.mutable_common_http_protocol_options()->mutable_idle_timeout()->set_seconds(3600);
  SetHttpOptions(options, &cluster);
  envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext tls;
  FillHboneTls(trust_domain, tls.mutable_common_tls_context());
  cluster.mutable_transport_socket()->set_name("envoy.transport_sockets.tls");
  PackInto(cluster.mutable_transport_socket()->mutable_typed_config(), tls);
  return cluster;
}

// --- A service's -------------------------------------------------------------------------------

void SetBalancer(const std::optional<LoadBalancerPolicy>& wanted, Cluster* cluster) {
  const LoadBalancerPolicy policy = wanted.value_or(LoadBalancerPolicy{});
  if (policy.hash != LoadBalancerPolicy::HashKey::kNone) {
    if (policy.maglev_table_size) {
      cluster->set_lb_policy(Cluster::MAGLEV);
      cluster->mutable_maglev_lb_config()->mutable_table_size()->set_value(
          *policy.maglev_table_size);
    } else {
      cluster->set_lb_policy(Cluster::RING_HASH);
      cluster->mutable_ring_hash_lb_config()->mutable_minimum_ring_size()->set_value(
          policy.minimum_ring_size.value_or(1024));
    }
    return;
  }
  switch (policy.simple) {
    case LoadBalancerPolicy::Simple::kRoundRobin:
      cluster->set_lb_policy(Cluster::ROUND_ROBIN);
      return;
    case LoadBalancerPolicy::Simple::kRandom: cluster->set_lb_policy(Cluster::RANDOM); return;
    case LoadBalancerPolicy::Simple::kUnset:
    case LoadBalancerPolicy::Simple::kLeastRequest:
    // The original destination of a call to a service is the service: nothing to pass through to.
    case LoadBalancerPolicy::Simple::kPassthrough:
      cluster->set_lb_policy(Cluster::LEAST_REQUEST);
      return;
  }
}

void SetPool(const std::optional<ConnectionPool>& wanted, Cluster* cluster) {
  const ConnectionPool pool = wanted.value_or(ConnectionPool{});
  SetDuration(cluster->mutable_connect_timeout(), pool.connect_timeout.value_or(Millis(10'000)));
  auto* limits = cluster->mutable_circuit_breakers()->add_thresholds();
  // Istio: what is not limited by the user is not limited; Envoy's own default is 1024.
  constexpr uint32_t kNoLimit = 4294967295U;
  limits->mutable_max_connections()->set_value(pool.max_connections.value_or(kNoLimit));
  limits->mutable_max_pending_requests()->set_value(
      pool.http1_max_pending_requests.value_or(kNoLimit));
  limits->mutable_max_requests()->set_value(pool.http2_max_requests.value_or(kNoLimit));
  limits->mutable_max_retries()->set_value(pool.max_retries.value_or(kNoLimit));
}

void SetHttp(const ClusterSpec& spec, const std::optional<ConnectionPool>& wanted,
             Cluster* cluster) {
  const ConnectionPool pool = wanted.value_or(ConnectionPool{});
  HttpOptions options;
  const bool http2 = spec.port->app_protocol == AppProtocol::kHttp2 ||
                     spec.port->app_protocol == AppProtocol::kGrpc || pool.h2_upgrade == true;
  envoy::config::core::v3::Http2ProtocolOptions* http2_options = nullptr;
  if (http2) {
    http2_options = options.mutable_explicit_http_config()->mutable_http2_protocol_options();
  } else {
    // As the client speaks: HTTP/1.1 and h2c prior knowledge both work on one port.
    options.mutable_use_downstream_protocol_config()->mutable_http_protocol_options();
    http2_options =
        options.mutable_use_downstream_protocol_config()->mutable_http2_protocol_options();
  }
  if (pool.max_concurrent_streams && *pool.max_concurrent_streams > 0) {
    http2_options->mutable_max_concurrent_streams()->set_value(*pool.max_concurrent_streams);
  }
  auto* common = options.mutable_common_http_protocol_options();
  if (pool.http_idle_timeout) SetDuration(common->mutable_idle_timeout(), *pool.http_idle_timeout);
  if (pool.max_requests_per_connection && *pool.max_requests_per_connection > 0) {
    common->mutable_max_requests_per_connection()->set_value(*pool.max_requests_per_connection);
  }
  SetHttpOptions(options, cluster);
}

void SetOutlier(const std::optional<OutlierDetection>& wanted, Cluster* cluster) {
  if (!wanted) return;
  auto* out = cluster->mutable_outlier_detection();
  const OutlierDetection& from = *wanted;
  // Istio: ejecting for each kind of error is on only if asked for; 5xx by default after five.
  const uint32_t errors = from.consecutive_5xx.value_or(5);
  out->mutable_consecutive_5xx()->set_value(errors);
  out->mutable_enforcing_consecutive_5xx()->set_value(errors > 0 ? 100 : 0);
  const uint32_t gateway = from.consecutive_gateway_errors.value_or(0);
  if (gateway > 0) out->mutable_consecutive_gateway_failure()->set_value(gateway);
  out->mutable_enforcing_consecutive_gateway_failure()->set_value(gateway > 0 ? 100 : 0);
  out->mutable_enforcing_success_rate()->set_value(0);
  if (from.split_external_local_origin_errors.value_or(false)) {
    out->set_split_external_local_origin_errors(true);
    const uint32_t local = from.consecutive_local_origin_failures.value_or(5);
    out->mutable_consecutive_local_origin_failure()->set_value(local);
    out->mutable_enforcing_consecutive_local_origin_failure()->set_value(local > 0 ? 100 : 0);
  }
  if (from.interval && from.interval->count() > 0) {
    SetDuration(out->mutable_interval(), *from.interval);
  }
  if (from.base_ejection_time && from.base_ejection_time->count() > 0) {
    SetDuration(out->mutable_base_ejection_time(), *from.base_ejection_time);
    // Envoy refuses a maximum, 300 s by default, that is below the base.
    SetDuration(out->mutable_max_ejection_time(),
                std::max(*from.base_ejection_time, Millis(300'000)));
  }
  out->mutable_max_ejection_percent()->set_value(
      std::min<uint32_t>(from.max_ejection_percent.value_or(10), 100));
  // Istio: below this share of healthy endpoints all are used; 0 switches Envoy's panic off.
  cluster->mutable_common_lb_config()->mutable_healthy_panic_threshold()->set_value(
      std::min<uint32_t>(from.min_health_percent.value_or(0), 100));
}

Cluster ServiceCluster(Scope& scope, const std::string& name, const ClusterSpec& spec) {
  Cluster cluster;
  cluster.set_name(name);
  cluster.set_type(Cluster::EDS);
  UseAds(cluster.mutable_eds_cluster_config()->mutable_eds_config());
  cluster.mutable_eds_cluster_config()->set_service_name(name);
  const TrafficSettings settings = scope.SettingsOf(spec);
  SetPool(settings.connection_pool, &cluster);
  SetBalancer(settings.load_balancer, &cluster);
  SetOutlier(settings.outlier_detection, &cluster);
  if (spec.http) SetHttp(spec, settings.connection_pool, &cluster);
  // Inside the mesh the tunnel is the TLS; a TLS of the application's own is not made here yet.
  if (settings.tls && (settings.tls->mode == ClientTls::Mode::kSimple ||
                       settings.tls->mode == ClientTls::Mode::kMutual)) {
    for (const DestinationRule* rule : scope.world().DestinationRulesFor(*spec.service)) {
      scope.Tell(rule->meta, 0, "UnsupportedValue",
                 "trafficPolicy.tls: waypoints do not originate TLS in this version: the endpoints "
                 "get no connections; use ISTIO_MUTUAL or leave it out inside the mesh");
    }
  }

  auto* tunnel = cluster.add_transport_socket_matches();
  tunnel->set_name("tunnel");
  SetText(tunnel->mutable_match(), "tunnel", "http");
  SetInternal(true, tunnel->mutable_transport_socket());
  auto* plain = cluster.add_transport_socket_matches();
  plain->set_name("plaintext");
  plain->mutable_match();
  SetRaw(plain->mutable_transport_socket());

  auto* istio = MetadataOf(cluster.mutable_metadata(), envoy_names::kIstioMetadata);
  auto* service = (*istio->mutable_fields())["services"]
                      .mutable_list_value()
                      ->add_values()
                      ->mutable_struct_value();
  SetText(service, "host", spec.service->hostname);
  SetText(service, "name", spec.service->meta.name);
  SetText(service, "namespace", spec.service->meta.ns);
  if (spec.subset) SetText(istio, "subset", spec.subset->name);
  return cluster;
}

}  // namespace

void FillHboneTls(const std::string& trust_domain,
                  envoy::extensions::transport_sockets::tls::v3::CommonTlsContext* tls) {
  namespace tls_v3 = envoy::extensions::transport_sockets::tls::v3;
  tls->mutable_tls_params()->set_tls_minimum_protocol_version(tls_v3::TlsParameters::TLSv1_3);
  tls->mutable_tls_params()->set_tls_maximum_protocol_version(tls_v3::TlsParameters::TLSv1_3);
  tls->add_alpn_protocols("h2");
  tls->add_tls_certificate_sds_secret_configs()->set_name(
      std::string(envoy_names::kOwnCertificate));
  auto* validation = tls->mutable_combined_validation_context();
  auto* san = validation->mutable_default_validation_context()->add_match_typed_subject_alt_names();
  san->set_san_type(tls_v3::SubjectAltNameMatcher::URI);
  san->mutable_matcher()->set_prefix("spiffe://" + trust_domain + "/");
  validation->mutable_validation_context_sds_secret_config()->set_name(
      std::string(envoy_names::kRoots));
}

void FillTcpTargets(Scope& scope, const ServedPort& served,
                    envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy* proxy) {
  const std::string own = served.TcpName();
  const VirtualService* object = scope.world().VirtualServiceFor(*served.service, scope.waypoint());
  const L4Route* chosen = nullptr;
  const std::vector<L4Route> none;
  for (const L4Route& route : object ? object->tcp : none) {
    const bool any = route.matches.empty();
    const bool here =
        std::any_of(route.matches.begin(), route.matches.end(), [&](const L4Match& match) {
          return (match.port == 0 || match.port == served.port->port) &&
                 match.destination_subnets.empty() &&
                 (match.gateways.empty() || std::find(match.gateways.begin(), match.gateways.end(),
                                                      "mesh") != match.gateways.end());
        });
    if (any || here) {
      chosen = &route;
      break;
    }
  }
  std::vector<std::pair<std::string, uint32_t>> targets;
  const std::vector<HttpRouteDestination> nowhere;
  for (const auto& target : chosen ? chosen->route : nowhere) {
    if (target.weight == 0 && chosen->route.size() > 1) continue;
    const std::string host = scope.world().ResolveHost(target.destination.host, object->meta.ns);
    const uint16_t port =
        target.destination.port != 0 ? target.destination.port : served.port->port;
    std::string problem;
    targets.emplace_back(scope.ClusterFor(host, port, target.destination.subset, false, &problem),
                         target.weight);
    if (!problem.empty()) {
      scope.Tell(object->meta, chosen->line, "BackendNotFound",
                 problem + ": connections that are routed there are closed");
    }
  }
  if (targets.empty()) {
    proxy->set_cluster(own);
  } else if (targets.size() == 1) {
    proxy->set_cluster(targets.front().first);
  } else {
    for (const auto& [name, weight] : targets) {
      auto* cluster = proxy->mutable_weighted_clusters()->add_clusters();
      cluster->set_name(name);
      cluster->set_weight(weight);
    }
  }
}

void EmitClusters(Scope& scope) {
  for (const Cluster& cluster :
       {MainInternal(), ConnectOriginate(scope.world().mesh().trust_domain)}) {
    scope.Emit(kClusterType, cluster.name(), cluster);
  }
  for (const auto& [name, spec] : scope.clusters()) {
    scope.Emit(kClusterType, name, ServiceCluster(scope, name, spec));
  }
}

}  // namespace qanat::controlplane
