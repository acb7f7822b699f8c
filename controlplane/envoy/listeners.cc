// SPDX-License-Identifier: Apache-2.0
// LDS: the three listeners of a waypoint (README.md). Only main_internal depends on its services.
#include <google/protobuf/wrappers.pb.h>

#include <utility>

#include "controlplane/envoy/names.h"
#include "controlplane/envoy/proto_util.h"
#include "controlplane/envoy/rbac.h"
#include "controlplane/envoy/scope.h"
#include "controlplane/envoy/shared_parts.h"
#include "envoy/config/accesslog/v3/accesslog.pb.h"
#include "envoy/config/listener/v3/listener.pb.h"
#include "envoy/config/route/v3/route.pb.h"
#include "envoy/extensions/access_loggers/stream/v3/stream.pb.h"
#include "envoy/extensions/filters/http/cors/v3/cors.pb.h"
#include "envoy/extensions/filters/http/fault/v3/fault.pb.h"
#include "envoy/extensions/filters/http/router/v3/router.pb.h"
#include "envoy/extensions/filters/http/set_filter_state/v3/set_filter_state.pb.h"
#include "envoy/extensions/filters/listener/http_inspector/v3/http_inspector.pb.h"
#include "envoy/extensions/filters/listener/original_dst/v3/original_dst.pb.h"
#include "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.pb.h"
#include "envoy/extensions/filters/network/set_filter_state/v3/set_filter_state.pb.h"
#include "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.pb.h"
#include "envoy/extensions/matching/common_inputs/network/v3/network_inputs.pb.h"
#include "envoy/extensions/transport_sockets/tls/v3/tls.pb.h"
#include "xds/type/matcher/v3/matcher.pb.h"

namespace qanat::controlplane {
namespace {

namespace listener_v3 = envoy::config::listener::v3;
namespace inputs = envoy::extensions::matching::common_inputs::network::v3;
namespace hcm_v3 = envoy::extensions::filters::network::http_connection_manager::v3;
using Hcm = hcm_v3::HttpConnectionManager;
using FilterState = envoy::extensions::filters::common::set_filter_state::v3::FilterStateValue;
using TcpProxy = envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
using Matcher = xds::type::matcher::v3::Matcher;

// Istio's text format, so that existing log pipelines keep reading it.
constexpr const char* kAccessLogFormat =
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" "
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% "
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" "
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% "
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% "
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

void AddNetworkFilter(const char* name, const google::protobuf::MessageLite& config,
                      listener_v3::FilterChain* chain) {
  auto* filter = chain->add_filters();
  filter->set_name(name);
  PackInto(filter->mutable_typed_config(), config);
}

void AddHttpFilter(std::string_view name, const google::protobuf::MessageLite& config, Hcm* hcm) {
  auto* filter = hcm->add_http_filters();
  filter->set_name(std::string(name));
  PackInto(filter->mutable_typed_config(), config);
}

void AddOriginalDst(listener_v3::Listener* listener) {
  auto* filter = listener->add_listener_filters();
  filter->set_name("envoy.filters.listener.original_dst");
  PackInto(filter->mutable_typed_config(),
           envoy::extensions::filters::listener::original_dst::v3::OriginalDst());
}

// `well_known`: the key is a type of Envoy's own, else a plain string.
void SetState(std::string_view key, const char* format, bool well_known, FilterState* value) {
  value->set_object_key(std::string(key));
  value->set_factory_key(well_known ? std::string(key) : "envoy.string");
  value->mutable_format_string()->mutable_text_format_source()->set_inline_string(format);
}

bool HasIpv6(const World& world) {
  for (const Pod& pod : world.objects().pods) {
    for (const net::IpAddress& ip : pod.ips) {
      if (ip.is_v6()) return true;
    }
  }
  return false;
}

listener_v3::Listener ConnectTerminate(const World& world) {
  listener_v3::Listener listener;
  listener.set_name(std::string(envoy_names::kConnectTerminate));
  auto* address = listener.mutable_address()->mutable_socket_address();
  address->set_address("0.0.0.0");
  address->set_port_value(envoy_names::kHbonePort);
  if (HasIpv6(world)) {
    auto* v6 = listener.add_additional_addresses()->mutable_address()->mutable_socket_address();
    v6->set_address("::");
    v6->set_port_value(envoy_names::kHbonePort);
  }
  listener.mutable_connection_balance_config()->mutable_exact_balance();

  auto* chain = listener.add_filter_chains();
  chain->set_name("default");
  envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext tls;
  FillHboneTls(world.mesh().trust_domain, tls.mutable_common_tls_context());
  tls.mutable_require_client_certificate()->set_value(true);
  chain->mutable_transport_socket()->set_name("envoy.transport_sockets.tls");
  PackInto(chain->mutable_transport_socket()->mutable_typed_config(), tls);

  Hcm hcm;
  hcm.set_stat_prefix(listener.name());
  hcm.set_codec_type(Hcm::HTTP2);
  auto* http2 = hcm.mutable_http2_protocol_options();
  http2->set_allow_connect(true);
  http2->mutable_max_concurrent_streams()->set_value(100);
  http2->mutable_connection_keepalive()->mutable_interval()->set_seconds(10);
  http2->mutable_connection_keepalive()->mutable_timeout()->set_seconds(20);
  hcm.add_upgrade_configs()->set_upgrade_type("CONNECT");
  hcm.mutable_stream_idle_timeout()->set_seconds(0);
  // Who calls and whom: read at the inner end by the matcher, RBAC and the logs. Shared with one
  // hop, which is the internal connection; never with what leaves this proxy.
  envoy::extensions::filters::http::set_filter_state::v3::Config state;
  const auto share = [&](std::string_view key, const char* format, bool well_known) {
    FilterState* value = state.add_on_request_headers();
    SetState(key, format, well_known, value);
    value->set_shared_with_upstream(FilterState::ONCE);
  };
  share(envoy_names::kPeerPrincipal, "%DOWNSTREAM_PEER_URI_SAN%", false);
  share(envoy_names::kLocalPrincipal, "%DOWNSTREAM_LOCAL_URI_SAN%", false);
  share(envoy_names::kConnectAuthority, "%REQ(:AUTHORITY)%", false);
  share(envoy_names::kOriginalDstLocal, "%REQ(:AUTHORITY)%", true);
  share(envoy_names::kOriginalDstRemote, "%DOWNSTREAM_REMOTE_ADDRESS%", true);
  AddHttpFilter("envoy.filters.http.set_filter_state", state, &hcm);
  AddHttpFilter(envoy_names::kRouter, envoy::extensions::filters::http::router::v3::Router(), &hcm);

  auto* host = hcm.mutable_route_config()->add_virtual_hosts();
  hcm.mutable_route_config()->set_name("default");
  host->set_name("default");
  host->add_domains("*");
  auto* route = host->add_routes();
  route->mutable_match()->mutable_connect_matcher();
  route->mutable_route()->set_cluster(std::string(envoy_names::kMainInternal));
  route->mutable_route()->mutable_timeout()->set_seconds(0);
  auto* upgrade = route->mutable_route()->add_upgrade_configs();
  upgrade->set_upgrade_type("CONNECT");
  upgrade->mutable_connect_config();
  AddNetworkFilter("envoy.filters.network.http_connection_manager", hcm, chain);
  return listener;
}

listener_v3::Listener ConnectOriginate() {
  listener_v3::Listener listener;
  listener.set_name(std::string(envoy_names::kConnectOriginate));
  listener.mutable_internal_listener();
  AddOriginalDst(&listener);
  auto* chain = listener.add_filter_chains();
  chain->set_name("default");
  // The far end must prove to be the very workload that the endpoint stands for. An endpoint
  // without an identity gives "-" here, which nobody can prove.
  envoy::extensions::filters::network::set_filter_state::v3::Config state;
  SetState(envoy_names::kUpstreamSans, "%DYNAMIC_METADATA(qanat:identity)%", true,
           state.add_on_new_connection());
  AddNetworkFilter("envoy.filters.network.set_filter_state", state, chain);
  TcpProxy proxy;
  proxy.set_stat_prefix(listener.name());
  proxy.set_cluster(std::string(envoy_names::kConnectOriginate));
  proxy.mutable_tunneling_config()->set_hostname("%DOWNSTREAM_LOCAL_ADDRESS%");
  AddNetworkFilter("envoy.filters.network.tcp_proxy", proxy, chain);
  return listener;
}

// --- main_internal -----------------------------------------------------------------------------

void AddHttpChain(const ServedPort& served, listener_v3::Listener* listener) {
  auto* chain = listener->add_filter_chains();
  chain->set_name(served.HttpName());
  Hcm hcm;
  hcm.set_stat_prefix(chain->name());
  hcm.set_codec_type(Hcm::AUTO);
  UseAds(hcm.mutable_rds()->mutable_config_source());
  hcm.mutable_rds()->set_route_config_name(chain->name());
  hcm.mutable_normalize_path()->set_value(true);
  // The client's address is the tunnel's, whatever X-Forwarded-For says; that header is the
  // application's and passes.
  hcm.mutable_use_remote_address()->set_value(true);
  hcm.set_skip_xff_append(true);
  hcm.set_server_header_transformation(Hcm::PASS_THROUGH);
  hcm.mutable_stream_idle_timeout()->set_seconds(0);
  hcm.add_upgrade_configs()->set_upgrade_type("websocket");
  AddHttpRbacFilters(&hcm);
  AddHttpFilter(envoy_names::kFault, envoy::extensions::filters::http::fault::v3::HTTPFault(),
                &hcm);
  AddHttpFilter(envoy_names::kCors, envoy::extensions::filters::http::cors::v3::Cors(), &hcm);
  AddHttpFilter(envoy_names::kRouter, envoy::extensions::filters::http::router::v3::Router(), &hcm);
  envoy::extensions::access_loggers::stream::v3::StdoutAccessLog log;
  log.mutable_log_format()->mutable_text_format_source()->set_inline_string(kAccessLogFormat);
  auto* access_log = hcm.add_access_log();
  access_log->set_name("envoy.access_loggers.stdout");
  PackInto(access_log->mutable_typed_config(), log);
  AddNetworkFilter("envoy.filters.network.http_connection_manager", hcm, chain);
}

void AddTcpChain(Scope& scope, const ServedPort& served, listener_v3::Listener* listener) {
  auto* chain = listener->add_filter_chains();
  chain->set_name(served.TcpName());
  AddNetworkRbacFilters(CompilePolicies(scope, served, false), chain->name(), chain);
  TcpProxy proxy;
  proxy.set_stat_prefix(chain->name());
  FillTcpTargets(scope, served, &proxy);
  AddNetworkFilter("envoy.filters.network.tcp_proxy", proxy, chain);
}

using OnMatch = Matcher::OnMatch;

void ChooseChain(const std::string& name, OnMatch* on_match) {
  google::protobuf::StringValue value;
  value.set_value(name);
  on_match->mutable_action()->set_name(name);
  PackInto(on_match->mutable_action()->mutable_typed_config(), value);
}

google::protobuf::Map<std::string, OnMatch>* MatchExactly(
    const char* name, const google::protobuf::MessageLite& input, Matcher* matcher) {
  matcher->mutable_matcher_tree()->mutable_input()->set_name(name);
  PackInto(matcher->mutable_matcher_tree()->mutable_input()->mutable_typed_config(), input);
  return matcher->mutable_matcher_tree()->mutable_exact_match_map()->mutable_map();
}

void ChooseChain(const ServedPort& served, OnMatch* on_match) {
  switch (served.kind) {
    case PortKind::kHttp: return ChooseChain(served.HttpName(), on_match);
    case PortKind::kTcp: return ChooseChain(served.TcpName(), on_match);
    case PortKind::kEither: break;
  }
  Matcher* by_protocol = on_match->mutable_matcher();
  auto* map = MatchExactly("application_protocol", inputs::ApplicationProtocolInput(), by_protocol);
  for (const char* protocol : {"'http/1.0'", "'http/1.1'", "'h2c'"}) {
    ChooseChain(served.HttpName(), &(*map)[protocol]);
  }
  ChooseChain(served.TcpName(), by_protocol->mutable_on_no_match());
}

void FillMatcher(const Scope& scope, Matcher* matcher) {
  // Without any address the tree must not be empty: Envoy asks for at least one entry.
  std::map<std::string, std::vector<const ServedPort*>> by_ip;
  for (const ServedPort& served : scope.ports()) {
    for (const net::IpAddress& ip : served.service->cluster_ips) {
      by_ip[ip.ToString()].push_back(&served);
    }
  }
  OnMatch* by_authority = matcher->mutable_on_no_match();
  if (by_ip.empty()) {
    matcher->clear_on_no_match();
  } else {
    auto* ips = MatchExactly("ip", inputs::DestinationIPInput(), matcher);
    for (const auto& [ip, ports] : by_ip) {
      Matcher* by_port = (*ips)[ip].mutable_matcher();
      auto* numbers = MatchExactly("port", inputs::DestinationPortInput(), by_port);
      for (const ServedPort* served : ports) {
        ChooseChain(*served, &(*numbers)[std::to_string(served->port->port)]);
      }
    }
    matcher = by_authority->mutable_matcher();
  }
  inputs::FilterStateInput input;
  input.set_key(std::string(envoy_names::kConnectAuthority));
  auto* authorities = MatchExactly("authority", input, matcher);
  for (const ServedPort& served : scope.ports()) {
    ChooseChain(
        served,
        &(*authorities)[served.service->hostname + ":" + std::to_string(served.port->port)]);
  }
}

// The inspector waits for the client's first bytes: it must not run where the server speaks first,
// that is, on any port whose protocol is known.
void AddHttpInspector(const Scope& scope, listener_v3::Listener* listener) {
  std::set<uint16_t> either, known;
  for (const ServedPort& served : scope.ports()) {
    (served.kind == PortKind::kEither ? either : known).insert(served.port->port);
  }
  if (either.empty()) return;
  auto* filter = listener->add_listener_filters();
  filter->set_name("envoy.filters.listener.http_inspector");
  PackInto(filter->mutable_typed_config(),
           envoy::extensions::filters::listener::http_inspector::v3::HttpInspector());
  std::vector<uint16_t> off;
  for (const uint16_t port : known) {
    if (!either.contains(port)) off.push_back(port);
  }
  const auto range = [](uint16_t port, listener_v3::ListenerFilterChainMatchPredicate* predicate) {
    predicate->mutable_destination_port_range()->set_start(port);
    predicate->mutable_destination_port_range()->set_end(port + 1);
  };
  if (off.size() == 1) {
    range(off.front(), filter->mutable_filter_disabled());
  } else if (off.size() > 1) {
    for (const uint16_t port : off) {
      range(port, filter->mutable_filter_disabled()->mutable_or_match()->add_rules());
    }
  }
  listener->mutable_listener_filters_timeout()->set_seconds(5);
  listener->set_continue_on_listener_filters_timeout(true);
}

listener_v3::Listener MainInternal(Scope& scope) {
  listener_v3::Listener listener;
  listener.set_name(std::string(envoy_names::kMainInternal));
  listener.mutable_internal_listener();
  AddOriginalDst(&listener);
  AddHttpInspector(scope, &listener);
  for (const ServedPort& served : scope.ports()) {
    if (served.kind != PortKind::kTcp) AddHttpChain(served, &listener);
    if (served.kind != PortKind::kHttp) AddTcpChain(scope, served, &listener);
  }
  if (scope.ports().empty()) {
    // A listener needs a chain; this one is chosen by nothing that a client can ask for.
    auto* chain = listener.add_filter_chains();
    chain->set_name("none");
    TcpProxy proxy;
    proxy.set_stat_prefix("none");
    proxy.set_cluster("none");
    AddNetworkFilter("envoy.filters.network.tcp_proxy", proxy, chain);
    inputs::FilterStateInput input;
    input.set_key(std::string(envoy_names::kConnectAuthority));
    auto* map = MatchExactly("authority", input, listener.mutable_filter_chain_matcher());
    ChooseChain("none", &(*map)["no service has chosen this waypoint"]);
    return listener;
  }
  FillMatcher(scope, listener.mutable_filter_chain_matcher());
  return listener;
}

}  // namespace

void EmitListeners(Scope& scope) {
  for (const auto& listener :
       {ConnectTerminate(scope.world()), MainInternal(scope), ConnectOriginate()}) {
    scope.Emit(kListenerType, listener.name(), listener);
  }
}

}  // namespace qanat::controlplane
