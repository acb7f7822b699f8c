// SPDX-License-Identifier: Apache-2.0
// HTTP through the waypoint: routing, canary, header route, limits, configuration changed live.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/integration/waypoint/http_fixture.h"

namespace qanat::waypoint::test {
namespace {

using std::chrono::milliseconds;

TEST_F(WaypointHttp, BothProtocolsThroughTunnelsBothSides) {
  FakeUpstream v1(bed.loop, "v1", bed.ca.Context(kBackend));
  Configure(AllowAll() + RouteTo("c"), {{"c", {v1.endpoint()}, kLikeDownstream}});
  Client client(bed, kFrontend);
  for (bool http2 : {false, true}) {
    auto* c = client.OpenHttp(kVip, http2);
    for (int i = 0; i < 5; ++i) {
      auto call = bed.Get(c, "/hello?i=" + std::to_string(i));
      EXPECT_EQ(call->status(), 200);
      EXPECT_EQ(call->body, "v1");
      EXPECT_NE(call->header("x-envoy-upstream-service-time"), "");
      EXPECT_NE(call->header("date"), "");
    }
    const UpstreamCall& seen = *v1.calls.back();
    EXPECT_EQ(seen.head.version == http::Version::kHttp2, http2);
    EXPECT_EQ(seen.head.path, "/hello?i=4");
    EXPECT_EQ(seen.head.authority, "backend.shop");
    EXPECT_EQ(seen.head.headers.Get("x-envoy-attempt-count"), "1");
    EXPECT_EQ(seen.head.headers.Get("x-forwarded-proto"), "http");
    EXPECT_EQ(seen.head.headers.Get("x-request-id")->size(), 36u);
    EXPECT_FALSE(seen.head.headers.Has("x-forwarded-for"));  // skip_xff_append
  }
  // One connection of each protocol served all, through a tunnel that names the pod.
  EXPECT_EQ(v1.connections, 2u);
  EXPECT_EQ(v1.authorities[0], v1.endpoint().address);
}

TEST_F(WaypointHttp, PlainUpstreamAndForcedHttp2) {
  FakeUpstream plain(bed.loop, "plain");
  Configure(AllowAll() + RouteTo("c"), {{"c", {plain.endpoint()}, kHttp2Upstream}});
  Client client(bed, kFrontend);
  auto call = bed.Get(client.OpenHttp(kVip, false), "/");
  EXPECT_EQ(call->body, "plain");
  EXPECT_EQ(plain.calls[0]->head.version, http::Version::kHttp2);
}

TEST_F(WaypointHttp, ByNameAsWellAsByAddress) {
  FakeUpstream v1(bed.loop, "v1");
  Configure(AllowAll() + RouteTo("c"), {{"c", {v1.endpoint()}, ""}});
  Client client(bed, kFrontend);
  EXPECT_EQ(bed.Get(client.OpenHttp("backend.shop.svc.cluster.local:80", false), "/")->body, "v1");
  EXPECT_EQ(client.Open("10.96.0.10:81"), nullptr);
  EXPECT_EQ(client.connect_status, 503);
  EXPECT_EQ(client.Open("10.96.0.11:80"), nullptr);
  EXPECT_EQ(client.Open("other.shop.svc.cluster.local:80"), nullptr);
  EXPECT_EQ(client.Open("nonsense"), nullptr);
  EXPECT_EQ(client.connect_status, 400);
}

TEST_F(WaypointHttp, CanaryKeepsItsWeights) {
  FakeUpstream v1(bed.loop, "v1"), v2(bed.loop, "v2");
  Configure(
      AllowAll() +
          "routes { name: \"canary\" match { prefix: \"/\" } route { timeout { } "
          "weighted_clusters { clusters { name: \"v1\" weight { value: 90 } } clusters { name: "
          "\"v2\" weight { value: 10 } } } } } ",
      {{"v1", {v1.endpoint()}, ""}, {"v2", {v2.endpoint()}, ""}});
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, true);
  int second = 0;
  constexpr int kN = 1000;
  for (int i = 0; i < kN; ++i) second += bed.Get(c, "/")->body == "v2" ? 1 : 0;
  const double sigma = std::sqrt(kN * 0.1 * 0.9);
  EXPECT_NEAR(second, kN * 0.1, 4 * sigma);
}

TEST_F(WaypointHttp, HeaderRouteRewriteRedirectAndDirectResponse) {
  FakeUpstream v1(bed.loop, "v1"), v2(bed.loop, "v2");
  Configure(
      AllowAll() +
          "routes { name: \"header\" match { prefix: \"/\" headers { name: \"x-user\" string_match "
          "{ "
          "exact: \"tester\" } } } route { cluster: \"v2\" timeout { } } } "
          "routes { name: \"rw\" match { path_separated_prefix: \"/old\" } route { cluster: \"v1\" "
          "timeout { } prefix_rewrite: \"/new\" host_rewrite_literal: \"inner.example\" } "
          "request_headers_to_add { header { key: \"x-added\" value: \"yes\" } } "
          "request_headers_to_remove: \"x-gone\" response_headers_to_add { header { key: "
          "\"x-resp\" "
          "value: \"r\" } append_action: OVERWRITE_IF_EXISTS_OR_ADD } } "
          "routes { name: \"redir\" match { path: \"/moved\" } redirect { path_redirect: "
          "\"/there\" "
          "response_code: FOUND } } "
          "routes { name: \"direct\" match { path: \"/direct\" } direct_response { status: 418 "
          "body { "
          "inline_string: \"teapot\" } } } " +
          RouteTo("v1", "", "prefix: \"/plain\""),
      {{"v1", {v1.endpoint()}, ""}, {"v2", {v2.endpoint()}, ""}});
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, false);
  EXPECT_EQ(bed.Get(c, "/plain", {{"x-user", "tester"}})->body, "v2");
  EXPECT_EQ(bed.Get(c, "/plain", {{"x-user", "other"}})->body, "v1");
  auto rewritten = bed.Get(c, "/old/x?q=1", {{"x-gone", "1"}});
  EXPECT_EQ(rewritten->header("x-resp"), "r");
  const http::RequestHead& seen = v1.calls.back()->head;
  EXPECT_EQ(seen.path, "/new/x?q=1");
  EXPECT_EQ(seen.authority, "inner.example");
  EXPECT_EQ(seen.headers.Get("x-added"), "yes");
  EXPECT_EQ(seen.headers.Get("x-envoy-original-path"), "/old/x?q=1");
  EXPECT_FALSE(seen.headers.Has("x-gone"));
  auto redirect = bed.Get(c, "/moved?a=1");
  EXPECT_EQ(redirect->status(), 302);
  EXPECT_EQ(redirect->header("location"), "http://backend.shop/there?a=1");
  auto direct = bed.Get(c, "/direct");
  EXPECT_EQ(direct->status(), 418);
  EXPECT_EQ(direct->body, "teapot");
  EXPECT_EQ(bed.Get(c, "/nowhere")->status(), 404);
}

TEST_F(WaypointHttp, ConfigurationChangesLive) {
  FakeUpstream v1(bed.loop, "v1"), v2(bed.loop, "v2");
  std::vector<TestCluster> clusters = {{"v1", {v1.endpoint()}, ""}, {"v2", {v2.endpoint()}, ""}};
  Configure(AllowAll() + RouteTo("v1"), clusters);
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, false);
  EXPECT_EQ(bed.Get(c, "/")->body, "v1");
  Configure(AllowAll() + RouteTo("v2"), clusters);
  EXPECT_EQ(bed.Get(c, "/")->body, "v2");  // the same connection
  clusters[1].endpoints = {v1.endpoint()};
  Configure(AllowAll() + RouteTo("v2"), clusters);
  EXPECT_EQ(bed.Get(c, "/")->body, "v1");
  Resources none;
  bed.store->Remove(ConfigStore::Type::kListener, "main_internal");
  bed.store->BatchEnd(ConfigStore::Type::kListener);
  bed.Until([&] { return bed.Get(c, "/")->status() == 404; });
}

TEST_F(WaypointHttp, FaultsAndCors) {
  FakeUpstream v1(bed.loop, "v1");
  constexpr const char* kFault =
      "typed_per_filter_config { key: \"envoy.filters.http.fault\" value { "
      "[type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault] { ";
  constexpr const char* kCors =
      "typed_per_filter_config { key: \"envoy.filters.http.cors\" value { "
      "[type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy] { "
      "allow_origin_string_match { exact: \"https://shop.example\" } allow_methods: \"GET\" "
      "max_age: \"60\" } } } ";
  Configure(
      AllowAll() + "routes { match { path: \"/abort\" } route { cluster: \"c\" } " + kFault +
          "abort { http_status: 555 percentage { numerator: 100 } } } } } } " +
          "routes { match { path: \"/delay\" } route { cluster: \"c\" } " + kFault +
          "delay { fixed_delay { nanos: 200000000 } percentage { numerator: 100 } } } } } } " +
          "routes { match { prefix: \"/cors\" } route { cluster: \"c\" } " + kCors + "} ",
      {{"c", {v1.endpoint()}, ""}});
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, false);
  auto abort = bed.Get(c, "/abort");
  EXPECT_EQ(abort->status(), 555);
  EXPECT_EQ(abort->body, "fault filter abort");
  auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(bed.Get(c, "/delay")->status(), 200);
  EXPECT_GE(std::chrono::steady_clock::now() - start, milliseconds(190));
  http::RequestHead preflight = Bed::Head("OPTIONS", "/cors");
  preflight.headers.Add("origin", "https://shop.example");
  preflight.headers.Add("access-control-request-method", "GET");
  auto answer = bed.Call(c, preflight);
  EXPECT_EQ(answer->status(), 200);
  EXPECT_EQ(answer->header("access-control-allow-origin"), "https://shop.example");
  EXPECT_EQ(answer->header("access-control-allow-methods"), "GET");
  auto get = bed.Get(c, "/cors", {{"origin", "https://shop.example"}});
  EXPECT_EQ(get->header("access-control-allow-origin"), "https://shop.example");
  EXPECT_EQ(
      bed.Get(c, "/cors", {{"origin", "https://evil"}})->header("access-control-allow-origin"), "");
}

TEST_F(WaypointHttp, LimitsOfTheCluster) {
  FakeUpstream v1(bed.loop, "v1");
  v1.handler = [](UpstreamCall&) {};
  Configure(
      AllowAll() + RouteTo("c"),
      {{"c", {v1.endpoint()}, "circuit_breakers { thresholds { max_requests { value: 2 } } }"}});
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, true);
  auto a = bed.Start(c, Bed::Head("GET", "/"), true);
  auto b = bed.Start(c, Bed::Head("GET", "/"), true);
  bed.Until([&] { return v1.calls.size() == 2; });
  auto refused = bed.Get(c, "/");
  EXPECT_EQ(refused->status(), 503);
  EXPECT_EQ(refused->header("x-envoy-overloaded"), "true");
  EXPECT_NE(bed.Metrics().find("response_flags=\"UO\""), std::string::npos);
}

TEST_F(WaypointHttp, MetricsNameBothEnds) {
  FakeUpstream v1(bed.loop, "backend-v1", bed.ca.Context(kBackend));
  Configure(AllowAll() + RouteTo("c"), {{"c", {v1.endpoint()}, ""}});
  Client client(bed, kFrontend);
  EXPECT_EQ(bed.Get(client.OpenHttp(kVip, false), "/")->status(), 200);
  bed.Until([&] { return bed.Metrics().find("istio_requests_total{") != std::string::npos; });
  std::string metrics = bed.Metrics();
  for (const char* text :
       {"istio_requests_total{", "reporter=\"waypoint\"", "source_workload=\"frontend\"",
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/frontend\"",
        "source_workload_namespace=\"shop\"", "source_cluster=\"Kubernetes\"",
        "destination_service=\"backend.shop.svc.cluster.local\"",
        "destination_service_name=\"backend\"", "destination_service_namespace=\"shop\"",
        "destination_workload=\"backend-v1\"",
        "destination_principal=\"spiffe://cluster.local/ns/shop/sa/backend\"",
        "request_protocol=\"http\"", "response_code=\"200\"", "response_flags=\"-\"",
        "connection_security_policy=\"mutual_tls\"",
        "istio_request_duration_milliseconds_bucket{"}) {
    EXPECT_NE(metrics.find(text), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace qanat::waypoint::test
