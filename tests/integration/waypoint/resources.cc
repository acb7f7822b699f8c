// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/waypoint/resources.h"

#include <envoy/config/cluster/v3/cluster.pb.h>
#include <envoy/config/endpoint/v3/endpoint.pb.h>
#include <envoy/config/listener/v3/listener.pb.h>
#include <envoy/config/route/v3/route.pb.h>
#include <envoy/extensions/filters/http/cors/v3/cors.pb.h>
#include <envoy/extensions/filters/http/fault/v3/fault.pb.h>
#include <envoy/extensions/filters/http/rbac/v3/rbac.pb.h>
#include <envoy/extensions/filters/http/router/v3/router.pb.h>
#include <envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.pb.h>
#include <envoy/extensions/filters/network/rbac/v3/rbac.pb.h>
#include <envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.pb.h>
#include <envoy/extensions/matching/common_inputs/network/v3/network_inputs.pb.h>
#include <envoy/extensions/upstreams/http/v3/http_protocol_options.pb.h>
#include <fmt/format.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/wrappers.pb.h>
#include <gtest/gtest.h>

namespace qanat::waypoint::test {
namespace {

// The descriptors of what the texts name in Any must be linked in.
template <typename... T>
void LinkIn() {
  (T::descriptor(), ...);
}

template <typename T>
std::string Bytes(const std::string& text) {
  LinkIn<envoy::extensions::filters::http::cors::v3::Cors,
         envoy::extensions::filters::http::fault::v3::HTTPFault,
         envoy::extensions::filters::http::rbac::v3::RBAC,
         envoy::extensions::filters::http::router::v3::Router,
         envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager,
         envoy::extensions::filters::network::rbac::v3::RBAC,
         envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy,
         envoy::extensions::matching::common_inputs::network::v3::DestinationIPInput,
         envoy::extensions::upstreams::http::v3::HttpProtocolOptions,
         google::protobuf::StringValue>();
  T message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message.SerializeAsString();
}

constexpr std::string_view kInputs =
    "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.";

std::string Input(std::string_view name, std::string_view body = "") {
  return fmt::format("input {{ name: \"i\" typed_config {{ [{}{}] {{ {} }} }} }}", kInputs, name,
                     body);
}

std::string Action(const std::string& chain) {
  return fmt::format(
      "action {{ name: \"a\" typed_config {{ [type.googleapis.com/google.protobuf.StringValue] {{ "
      "value: \"{}\" }} }} }}",
      chain);
}

// What to do for one service port: an action, or first a look at the protocol.
std::string OnMatch(const TestService& s) {
  switch (s.kind) {
    case TestService::Kind::kHttp: return Action(s.chain("http"));
    case TestService::Kind::kTcp: return Action(s.chain("tcp"));
    case TestService::Kind::kSniff: break;
  }
  std::string entries;
  for (const char* p : {"'http/1.0'", "'http/1.1'", "'h2c'"}) {
    entries += fmt::format("map {{ key: \"{}\" value {{ {} }} }} ", p, Action(s.chain("http")));
  }
  return fmt::format(
      "matcher {{ matcher_tree {{ {} exact_match_map {{ {} }} }} on_no_match {{ {} }} }}",
      Input("ApplicationProtocolInput"), entries, Action(s.chain("tcp")));
}

std::string HttpChainText(const TestService& s) {
  constexpr std::string_view kFilters = "type.googleapis.com/envoy.extensions.filters.http.";
  auto filter = [&](std::string_view name, std::string_view type, std::string_view body) {
    return fmt::format("http_filters {{ name: \"{}\" typed_config {{ [{}{}] {{ {} }} }} }} ", name,
                       kFilters, type, body);
  };
  std::string filters =
      filter("envoy.filters.http.rbac.audit", "rbac.v3.RBAC", "") +
      filter("envoy.filters.http.rbac.deny", "rbac.v3.RBAC", "") +
      filter("envoy.filters.http.rbac.allow", "rbac.v3.RBAC", "rules { action: ALLOW }") +
      filter("envoy.filters.http.fault", "fault.v3.HTTPFault", "") +
      filter("envoy.filters.http.cors", "cors.v3.Cors", "") +
      filter("envoy.filters.http.router", "router.v3.Router", "");
  return fmt::format(
      "filter_chains {{ name: \"{0}\" filters {{ name: \"hcm\" typed_config {{ "
      "[type.googleapis.com/"
      "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager] {{ "
      "stat_prefix: \"{0}\" rds {{ config_source {{ ads {{}} }} route_config_name: \"{0}\" }} "
      "normalize_path {{ value: true }} use_remote_address {{ value: true }} skip_xff_append: true "
      "server_header_transformation: PASS_THROUGH stream_idle_timeout {{}} access_log {{ name: "
      "\"log\" }} {1} {2} }} }} }} }} ",
      s.chain("http"), filters, s.hcm);
}

std::string TcpChainText(const TestService& s) {
  std::string rbac;
  if (!s.tcp_rbac.empty()) {
    rbac = fmt::format(
        "filters {{ name: \"rbac\" typed_config {{ "
        "[type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC] {{ stat_prefix: "
        "\"tcp\" rules {{ {} }} }} }} }} ",
        s.tcp_rbac);
  }
  return fmt::format(
      "filter_chains {{ name: \"{0}\" {1} filters {{ name: \"tcp\" typed_config {{ "
      "[type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] {{ "
      "stat_prefix: "
      "\"{0}\" cluster: \"{2}\" }} }} }} }} ",
      s.chain("tcp"), rbac, s.tcp_cluster.empty() ? s.chain("tcp") : s.tcp_cluster);
}

std::string Metadata(std::string_view filter, const std::map<std::string, std::string>& fields) {
  std::string body;
  for (const auto& [key, value] : fields) {
    if (value.empty()) continue;
    body += fmt::format("fields {{ key: \"{}\" value {{ string_value: \"{}\" }} }} ", key, value);
  }
  return fmt::format("filter_metadata {{ key: \"{}\" value {{ {} }} }} ", filter, body);
}

}  // namespace

std::string TestService::chain(std::string_view protocol) const {
  return fmt::format("inbound-vip|{}|{}|{}", port, protocol, host);
}

std::string RbacPolicyText(std::string_view name, std::string_view permission,
                           std::string_view principal) {
  return fmt::format(
      "policies {{ key: \"{}\" value {{ permissions {{ {} }} principals {{ {} }} }} }} ", name,
      permission, principal);
}

std::string RbacOverrides(std::string_view deny_policies, std::string_view allow_policies,
                          bool has_allow) {
  constexpr std::string_view kType =
      "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
  auto one = [&](std::string_view filter, std::string body) {
    return fmt::format("typed_per_filter_config {{ key: \"{}\" value {{ [{}] {{ {} }} }} }} ",
                       filter, kType, body);
  };
  std::string deny;
  if (!deny_policies.empty()) {
    deny = fmt::format("rbac {{ rules {{ action: DENY {} }} }}", deny_policies);
  }
  std::string allow;
  if (has_allow) allow = fmt::format("rbac {{ rules {{ action: ALLOW {} }} }}", allow_policies);
  return one("envoy.filters.http.rbac.audit", "") + one("envoy.filters.http.rbac.deny", deny) +
         one("envoy.filters.http.rbac.allow", allow);
}

std::string ListenerBytes(const std::vector<TestService>& services) {
  std::string ips, names, chains;
  std::map<std::string, std::string> ports_of;
  for (const TestService& s : services) {
    if (s.kind != TestService::Kind::kTcp) chains += HttpChainText(s);
    if (s.kind != TestService::Kind::kHttp) chains += TcpChainText(s);
    ports_of[s.vip] += fmt::format("map {{ key: \"{}\" value {{ {} }} }} ", s.port, OnMatch(s));
    names += fmt::format("map {{ key: \"{}:{}\" value {{ {} }} }} ", s.host, s.port, OnMatch(s));
  }
  for (const auto& [vip, ports] : ports_of) {
    ips += fmt::format(
        "map {{ key: \"{}\" value {{ matcher {{ matcher_tree {{ {} exact_match_map {{ {} }} }} }} "
        "}} "
        "}} ",
        vip, Input("DestinationPortInput"), ports);
  }
  std::string by_name =
      fmt::format("matcher {{ matcher_tree {{ {} exact_match_map {{ {} }} }} }}",
                  Input("FilterStateInput", "key: \"io.istio.connect_authority\""), names);
  return Bytes<envoy::config::listener::v3::Listener>(fmt::format(
      "name: \"main_internal\" internal_listener {{}} filter_chain_matcher {{ matcher_tree {{ {} "
      "exact_match_map {{ {} }} }} on_no_match {{ {} }} }} {}",
      Input("DestinationIPInput"), ips, by_name, chains));
}

std::string RoutesBytes(const TestService& s) {
  return Bytes<envoy::config::route::v3::RouteConfiguration>(fmt::format(
      "name: \"{}\" virtual_hosts {{ name: \"{}:{}\" domains: \"*\" include_request_attempt_count: "
      "true {} routes {{ name: \"no-route\" match {{ prefix: \"/\" }} direct_response {{ status: "
      "404 "
      "}} }} }}",
      s.chain("http"), s.host, s.port, s.virtual_host));
}

std::string ClusterBytes(const TestCluster& c) {
  return Bytes<envoy::config::cluster::v3::Cluster>(fmt::format(
      "name: \"{}\" type: EDS eds_cluster_config {{ eds_config {{ ads {{}} }} }} lb_policy: "
      "{} connect_timeout {{ seconds: 2 }} metadata {{ filter_metadata {{ key: \"istio\" "
      "value {{ fields {{ key: \"services\" value {{ list_value {{ values {{ struct_value {{ "
      "fields "
      "{{ key: \"host\" value {{ string_value: \"backend.shop.svc.cluster.local\" }} }} fields {{ "
      "key: \"name\" value {{ string_value: \"backend\" }} }} fields {{ key: \"namespace\" value "
      "{{ "
      "string_value: \"shop\" }} }} }} }} }} }} }} }} }} }} {}",
      c.name, c.lb, c.extra));
}

std::string EndpointsBytes(const TestCluster& c) {
  std::string list;
  for (const TestEndpoint& e : c.endpoints) {
    size_t colon = e.address.rfind(':');
    std::string address =
        e.tunnel.empty()
            ? fmt::format("socket_address {{ address: \"{}\" port_value: {} }}",
                          e.address.substr(0, colon), e.address.substr(colon + 1))
            : fmt::format(
                  "envoy_internal_address {{ server_listener_name: \"connect_originate\" "
                  "endpoint_id: \"{}\" }}",
                  e.address);
    std::string metadata =
        Metadata("qanat", {{"identity", e.identity}, {"hbone", e.tunnel}}) +
        Metadata("istio", {{"workload", e.workload + ";shop;backend;v1;Kubernetes"}});
    if (!e.tunnel.empty()) {
      metadata += Metadata("envoy.filters.listener.original_dst", {{"local", e.address}});
    }
    list += fmt::format(
        "lb_endpoints {{ endpoint {{ address {{ {} }} }} health_status: {} metadata {{ {} }} "
        "load_balancing_weight {{ value: {} }} }} ",
        address, e.healthy ? "HEALTHY" : "UNHEALTHY", metadata, e.weight);
  }
  return Bytes<envoy::config::endpoint::v3::ClusterLoadAssignment>(
      fmt::format("cluster_name: \"{}\" endpoints {{ {} }}", c.name, list));
}

std::map<std::string, std::string> Resources::Apply(ConfigStore& store) const {
  using Type = ConfigStore::Type;
  std::map<std::string, std::string> errors;
  auto apply = [&](Type type, const std::string& name, const std::string& bytes) {
    if (Status s = store.Apply(type, name, "1", bytes); !s) errors[name] = s.error().message;
  };
  for (const TestCluster& c : clusters) apply(Type::kCluster, c.name, ClusterBytes(c));
  store.BatchEnd(Type::kCluster);
  for (const TestCluster& c : clusters) apply(Type::kEndpoint, c.name, EndpointsBytes(c));
  store.BatchEnd(Type::kEndpoint);
  apply(Type::kListener, "main_internal", ListenerBytes(services));
  store.BatchEnd(Type::kListener);
  for (const TestService& s : services) {
    if (s.kind != TestService::Kind::kTcp) apply(Type::kRoute, s.chain("http"), RoutesBytes(s));
  }
  store.BatchEnd(Type::kRoute);
  return errors;
}

}  // namespace qanat::waypoint::test
