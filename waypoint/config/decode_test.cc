// SPDX-License-Identifier: Apache-2.0
// What the decoders refuse, with which words, and what they make of policies they do not
// understand. The good cases are tested end to end in tests/integration/{waypoint,translation}.
#include "waypoint/config/decode.h"

#include <envoy/config/cluster/v3/cluster.pb.h>
#include <envoy/config/endpoint/v3/endpoint.pb.h>
#include <envoy/config/listener/v3/listener.pb.h>
#include <envoy/config/route/v3/route.pb.h>
#include <envoy/extensions/filters/http/jwt_authn/v3/config.pb.h>
#include <envoy/extensions/filters/http/rbac/v3/rbac.pb.h>
#include <envoy/extensions/filters/http/router/v3/router.pb.h>
#include <envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.pb.h>
#include <envoy/extensions/matching/common_inputs/network/v3/network_inputs.pb.h>
#include <envoy/extensions/transport_sockets/tls/v3/tls.pb.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/wrappers.pb.h>
#include <gtest/gtest.h>

#include "waypoint/config/store.h"

namespace qanat::waypoint {
namespace {

template <typename T>
std::string Bytes(const std::string& text) {
  T message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message.SerializeAsString();
}

using RouteConfiguration = envoy::config::route::v3::RouteConfiguration;
using Cluster = envoy::config::cluster::v3::Cluster;
using Assignment = envoy::config::endpoint::v3::ClusterLoadAssignment;
using Listener = envoy::config::listener::v3::Listener;
using HttpRbac = envoy::extensions::filters::http::rbac::v3::RBAC;

template <typename T>
std::string WhyNot(const Result<Decoded<T>>& result) {
  return result ? std::string("(accepted)") : result.error().message;
}

TEST(Decode, GarbageIsAnError) {
  const std::string garbage = "\xff\xff\xff\xff garbage";
  EXPECT_FALSE(DecodeListener(garbage));
  EXPECT_FALSE(DecodeRoutes(garbage));
  EXPECT_FALSE(DecodeCluster(garbage));
  EXPECT_FALSE(DecodeEndpoints(garbage));
  EXPECT_FALSE(DecodeRbacFilter(garbage));
}

TEST(Decode, ClustersThatCannotBeServedSayWhy) {
  struct {
    const char* text;
    const char* why;
  } cases[] = {
      {"name: \"c\" type: STRICT_DNS", "DNS"},
      {"name: \"c\" type: EDS lb_policy: RING_HASH", "consistent hashing"},
      {"name: \"c\" type: EDS lb_policy: MAGLEV", "consistent hashing"},
      {"name: \"c\" cluster_type { name: \"x\" }", "cluster_type x"},
      {"name: \"c\" type: EDS transport_socket { name: \"tls\" typed_config { "
       "[type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext] { } } }",
       "TLS to the application"},
  };
  envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext::descriptor();
  for (const auto& c : cases) {
    EXPECT_NE(WhyNot(DecodeCluster(Bytes<Cluster>(c.text))).find(c.why), std::string::npos)
        << WhyNot(DecodeCluster(Bytes<Cluster>(c.text)));
  }
  auto plumbing =
      DecodeCluster(Bytes<Cluster>("name: \"connect_originate\" type: ORIGINAL_DST "
                                   "lb_policy: CLUSTER_PROVIDED"));
  ASSERT_TRUE(plumbing);
  EXPECT_TRUE(plumbing->value->plumbing);
}

TEST(Decode, EndpointsThatCannotBeReachedSayWhy) {
  struct {
    const char* address;
    const char* why;
  } cases[] = {
      {"pipe { path: \"/x\" }", "without an IP address"},
      {"envoy_internal_address { server_listener_name: \"other\" }", "other"},
      {"socket_address { address: \"example.com\" port_value: 80 }", ""},
      {"socket_address { address: \"10.0.0.1\" port_value: 70000 }", "port"},
      {"socket_address { address: \"10.0.0.1\" named_port: \"http\" }", "port"},
      {"envoy_internal_address { server_listener_name: \"connect_originate\" endpoint_id: \"x\" }",
       ""},
  };
  for (const auto& c : cases) {
    auto result = DecodeEndpoints(Bytes<Assignment>(
        std::string("endpoints { lb_endpoints { endpoint { address { ") + c.address + " } } } }"));
    EXPECT_FALSE(result) << c.address;
    EXPECT_NE(WhyNot(result).find(c.why), std::string::npos) << WhyNot(result);
  }
}

TEST(Decode, StockIstiodsWorkloadMetadata) {
  auto result = DecodeEndpoints(Bytes<Assignment>(
      "cluster_name: \"c\" endpoints { priority: 1 lb_endpoints { endpoint { address { "
      "envoy_internal_address { server_listener_name: \"connect_originate\" endpoint_id: "
      "\"10.0.0.1:80\" } } } health_status: DRAINING metadata { filter_metadata { key: \"istio\" "
      "value { fields { key: \"workload\" value { string_value: \"w;ns;cn;rev;cl\" } } } } } } }"));
  ASSERT_TRUE(result);
  const Endpoint& e = result->value->endpoints.at(0);
  EXPECT_EQ(e.tunnel.ToString(), "10.0.0.1:15008");
  EXPECT_FALSE(e.healthy);
  EXPECT_EQ(e.priority, 1u);
  EXPECT_EQ(e.labels.workload, "w");
  EXPECT_EQ(e.labels.ns, "ns");
  EXPECT_EQ(e.labels.canonical_name, "cn");
  EXPECT_EQ(e.labels.canonical_revision, "rev");
  EXPECT_EQ(e.labels.cluster, "cl");
  EXPECT_EQ(e.identity, "");  // so no tunnel to it is made: nobody said who it is
}

std::string Table(const std::string& inside) {
  return "name: \"r\" virtual_hosts { name: \"h\" domains: \"*\" " + inside + " }";
}

TEST(Decode, BrokenRoutesDoNotTakeThePolicyWithThem) {
  // The route that cannot be served answers 503; the table with its policies is applied.
  for (const char* text : {
           "routes { name: \"x\" match { prefix: \"/\" } route { cluster_specifier_plugin: \"p\" } "
           "}",
           "routes { name: \"x\" match { prefix: \"/\" } route { weighted_clusters { clusters { "
           "name: \"a\" weight { } } } } }",
           "routes { name: \"x\" match { prefix: \"/\" } redirect { path_redirect: \"/a\\r\\nb: "
           "c\" "
           "} }",
           "routes { name: \"x\" match { prefix: \"/\" } direct_response { status: 99 } }",
           "routes { name: \"x\" match { prefix: \"/\" } route { cluster: \"c\" } "
           "request_headers_to_add { header { key: \":path\" value: \"/admin\" } } }",
           "routes { name: \"x\" match { prefix: \"/\" } route { cluster: \"c\" } "
           "request_headers_to_add { header { key: \"a\" value: \"%WHO_KNOWS%\" } } }",
       }) {
    auto result = DecodeRoutes(Bytes<RouteConfiguration>(Table(text)));
    if (!result) continue;  // refused as a whole is right too
    EXPECT_FALSE(result->restricted.empty()) << text;
    http::RequestHead head;
    head.path = "/";
    auto choice = result->value->Find(HeadView(head), 0);
    ASSERT_NE(choice.route, nullptr);
    const auto* direct = std::get_if<DirectResponse>(&choice.route->action);
    ASSERT_NE(direct, nullptr) << text;
    EXPECT_EQ(direct->status, 503u);
  }
}

TEST(Decode, AFilterOverrideOfUnknownTypeIsRefused) {
  auto result = DecodeRoutes(Bytes<RouteConfiguration>(
      Table("typed_per_filter_config { key: \"envoy.filters.http.rbac.deny\" value { type_url: "
            "\"type.googleapis.com/some.Other\" } }")));
  EXPECT_NE(WhyNot(result).find("some.Other"), std::string::npos);
}

TEST(Decode, TwoHostsForOneDomain) {
  EXPECT_FALSE(DecodeRoutes(Bytes<RouteConfiguration>(
      "name: \"r\" virtual_hosts { name: \"a\" domains: \"*\" } virtual_hosts { name: \"b\" "
      "domains: \"*\" }")));
}

// Policies.

AuthzDecision Ask(const RbacRules& rules, std::string path = "/", std::string identity = "") {
  http::RequestHead request;
  request.method = "GET";
  request.path = std::move(path);
  HeadView head(request);
  AuthzInput input;
  input.identity = identity;
  input.head = &head;
  return Evaluate({&rules}, input);
}

struct PolicyCase {
  const char* permission;
  bool reported;
};

TEST(DecodeRbac, WhatIsNotUnderstoodRefusesEitherWay) {
  for (const char* part : {
           "matcher { name: \"x\" }",
           "metadata { filter: \"some.filter\" path { key: \"a\" } value { present_match: true } }",
           "url_path { }",
           "header { name: \"\" }",
           "header { name: \"a\" string_match { safe_regex { regex: \"(\" } } }",
           "destination_port_range { start: 9 end: 3 }",
           "destination_ip { address_prefix: \"nonsense\" }",
           "any: false",
           "",
       }) {
    for (const char* wrap : {"%s", "not_rule { %s }", "and_rules { rules { %s } }"}) {
      std::string permission = wrap;
      permission.replace(permission.find("%s"), 2, part);
      for (const char* action : {"ALLOW", "DENY"}) {
        auto result =
            DecodeRbacFilter(Bytes<HttpRbac>(std::string("rules { action: ") + action +
                                             " policies { key: \"p\" value { permissions { " +
                                             permission + " } principals { any: true } } } }"));
        ASSERT_TRUE(result);
        EXPECT_FALSE(Ask(*result->value).allowed) << action << " " << permission;
        EXPECT_FALSE(result->restricted.empty()) << permission;
      }
    }
  }
}

TEST(DecodeRbac, FieldsAndActionsOfTheFuture) {
  HttpRbac rbac;
  auto& policy = (*rbac.mutable_rules()->mutable_policies())["p"];
  policy.add_permissions()->set_any(true);
  policy.add_principals()->set_any(true);
  // A field that this version does not know, as a newer control plane may send.
  policy.GetReflection()->MutableUnknownFields(&policy)->AddVarint(77, 1);
  auto result = DecodeRbacFilter(rbac.SerializeAsString());
  ASSERT_TRUE(result);
  EXPECT_FALSE(Ask(*result->value).allowed);
  EXPECT_FALSE(result->restricted.empty());

  HttpRbac odd;
  odd.mutable_rules()->set_action(static_cast<envoy::config::rbac::v3::RBAC::Action>(9));
  result = DecodeRbacFilter(odd.SerializeAsString());
  ASSERT_TRUE(result);
  EXPECT_FALSE(Ask(*result->value).allowed);

  HttpRbac cel;
  auto& with = (*cel.mutable_rules()->mutable_policies())["p"];
  with.add_permissions()->set_any(true);
  with.add_principals()->set_any(true);
  with.mutable_condition();
  EXPECT_FALSE(Ask(*DecodeRbacFilter(cel.SerializeAsString())->value).allowed);

  auto tree = DecodeRbacFilter(Bytes<HttpRbac>("matcher { }"));
  EXPECT_FALSE(Ask(*tree->value).allowed);
}

TEST(DecodeRbac, DeepNestingIsCutOffRefusing) {
  std::string permission = "any: true";
  for (int i = 0; i < 40; ++i) permission = "and_rules { rules { " + permission + " } }";
  auto result =
      DecodeRbacFilter(Bytes<HttpRbac>("rules { policies { key: \"p\" value { permissions { " +
                                       permission + " } principals { any: true } } } }"));
  ASSERT_TRUE(result);
  EXPECT_FALSE(Ask(*result->value).allowed);
}

TEST(DecodeRbac, TokensNobodyValidatedAreAbsent) {
  const std::string claim =
      "metadata { filter: \"envoy.filters.http.jwt_authn\" path { key: \"sub\" } value { "
      "string_match { exact: \"x\" } } ";
  auto allow =
      DecodeRbacFilter(Bytes<HttpRbac>("rules { policies { key: \"p\" value { permissions { "
                                       "any: true } principals { " +
                                       claim + "} } } } }"));
  EXPECT_FALSE(Ask(*allow->value).allowed);
  EXPECT_TRUE(allow->restricted.empty());
  auto deny = DecodeRbacFilter(Bytes<HttpRbac>(
      "rules { action: DENY policies { key: \"p\" value { permissions { any: true } "
      "principals { not_id { " +
      claim + "} } } } } }"));
  EXPECT_FALSE(Ask(*deny->value).allowed);
}

// Listeners.

std::string Chain(const std::string& filter) {
  return "name: \"main_internal\" internal_listener { } filter_chain_matcher { matcher_tree { "
         "input { "
         "name: \"i\" typed_config { "
         "[type.googleapis.com/"
         "envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput] { } } } "
         "exact_match_map { map { key: \"10.0.0.1\" value { action { name: \"a\" typed_config { "
         "[type.googleapis.com/google.protobuf.StringValue] { value: \"c\" } } } } } } } } "
         "filter_chains { name: \"c\" filters { name: \"hcm\" typed_config { "
         "[type.googleapis.com/"
         "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager] { rds "
         "{ "
         "route_config_name: \"r\" } " +
         filter +
         " http_filters { name: \"router\" typed_config { "
         "[type.googleapis.com/envoy.extensions.filters.http.router.v3.Router] { } } } } } } }";
}

TEST(DecodeListener, FiltersThatWeDoNotHaveAreRefusedByName) {
  envoy::extensions::filters::http::router::v3::Router::descriptor();
  envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication::descriptor();
  envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager::
      descriptor();
  envoy::extensions::matching::common_inputs::network::v3::DestinationIPInput::descriptor();
  google::protobuf::StringValue::descriptor();
  ASSERT_TRUE(DecodeListener(Bytes<Listener>(Chain(""))));
  auto jwt = DecodeListener(Bytes<Listener>(Chain(
      "http_filters { name: \"jwt\" typed_config { "
      "[type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication] { } "
      "} }")));
  EXPECT_NE(WhyNot(jwt).find("JwtAuthentication"), std::string::npos);
  auto stats = DecodeListener(
      Bytes<Listener>(Chain("http_filters { name: \"istio.stats\" typed_config { type_url: "
                            "\"type.googleapis.com/stats.PluginConfig\" } }")));
  EXPECT_TRUE(stats) << WhyNot(stats);
}

TEST(DecodeListener, OnlyAWaypointsListenersAreServed) {
  EXPECT_TRUE(DecodeListener(Bytes<Listener>("name: \"connect_terminate\"")));
  EXPECT_TRUE(DecodeListener(Bytes<Listener>("name: \"connect_originate\"")));
  EXPECT_NE(WhyNot(DecodeListener(Bytes<Listener>("name: \"0.0.0.0_80\""))).find("inner listener"),
            std::string::npos);
}

// The store.

TEST(ConfigStore, AsksForWhatIsNamedAndKeepsTheLastGood) {
  std::map<ConfigStore::Type, std::set<std::string>> wanted;
  int published = 0;
  ConfigStore store({[&](ConfigStore::Type t, const std::set<std::string>& n) { wanted[t] = n; },
                     [&](SnapshotPtr) { ++published; }});
  using Type = ConfigStore::Type;
  EXPECT_TRUE(store.Apply(Type::kCluster, "c", "1",
                          Bytes<Cluster>("name: \"c\" type: EDS lb_policy: RANDOM")));
  store.BatchEnd(Type::kCluster);
  EXPECT_EQ(wanted[Type::kEndpoint], std::set<std::string>{"c"});
  EXPECT_TRUE(store.Apply(Type::kListener, "main_internal", "1", Bytes<Listener>(Chain(""))));
  store.BatchEnd(Type::kListener);
  EXPECT_EQ(wanted[Type::kRoute], std::set<std::string>{"r"});
  EXPECT_FALSE(store.complete());
  store.Remove(Type::kEndpoint, "c");  // does not exist: an answer too
  store.BatchEnd(Type::kEndpoint);
  EXPECT_TRUE(store.Apply(Type::kRoute, "r", "1", Bytes<RouteConfiguration>(Table(""))));
  store.BatchEnd(Type::kRoute);
  EXPECT_TRUE(store.complete());
  EXPECT_EQ(published, 4);

  EXPECT_FALSE(
      store.Apply(Type::kCluster, "c", "2", Bytes<Cluster>("name: \"c\" type: LOGICAL_DNS")));
  store.BatchEnd(Type::kCluster);
  EXPECT_NE(store.snapshot()->FindCluster("c"), nullptr);
  ASSERT_EQ(store.problems().size(), 1u);
  EXPECT_EQ(store.problems()[0].name, "c");
  EXPECT_TRUE(store.Apply(Type::kCluster, "c", "3", Bytes<Cluster>("name: \"c\" type: EDS")));
  store.BatchEnd(Type::kCluster);
  EXPECT_TRUE(store.problems().empty());
  store.Remove(Type::kCluster, "c");
  store.BatchEnd(Type::kCluster);
  EXPECT_TRUE(wanted[Type::kEndpoint].empty());
  EXPECT_EQ(store.snapshot()->FindCluster("c"), nullptr);
}

}  // namespace
}  // namespace qanat::waypoint
