// SPDX-License-Identifier: Apache-2.0
// HTTP through the waypoint: routing, canary, header route, retries, timeouts, bodies with
// backpressure, aborts, upstream death, configuration changed live.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/integration/waypoint/bed.h"

namespace qanat::waypoint::test {
namespace {

using std::chrono::milliseconds;

std::string AllowAll() { return RbacOverrides("", "", false); }

std::string RouteTo(const std::string& cluster, const std::string& more = "",
                    const std::string& match = "prefix: \"/\"") {
  return "routes { name: \"to-" + cluster + "\" match { " + match + " } route { cluster: \"" +
         cluster + "\" timeout { } " + more + " } } ";
}

constexpr const char* kHttp2Upstream =
    "typed_extension_protocol_options { key: "
    "\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\" "
    "value { [type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions] { "
    "explicit_http_config { http2_protocol_options { } } } } }";
constexpr const char* kLikeDownstream =
    "typed_extension_protocol_options { key: "
    "\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\" "
    "value { [type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions] { "
    "use_downstream_protocol_config { http_protocol_options { } http2_protocol_options { } } } } }";

constexpr const char* kVip = "10.96.0.10:80";

class WaypointHttp : public ::testing::Test {
 protected:
  void Configure(std::string virtual_host, std::vector<TestCluster> clusters,
                 std::string hcm = "") {
    Resources r;
    TestService s;
    s.virtual_host = std::move(virtual_host);
    s.hcm = std::move(hcm);
    r.services = {s};
    r.clusters = std::move(clusters);
    auto errors = bed.Push(r);
    EXPECT_TRUE(errors.empty()) << errors.begin()->first << ": " << errors.begin()->second;
  }
  Bed bed;
};

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

TEST_F(WaypointHttp, RetriesOn503AndGivesUp) {
  FakeUpstream v1(bed.loop, "v1");
  int failures = 2;
  v1.handler = [&](UpstreamCall& call) {
    auto answer = [&](UpstreamCall& c) {
      if (failures-- > 0) return c.Reply(503, "busy");
      c.Reply(200, "ok:" + c.body);
    };
    if (call.ended) return answer(call);
    call.on_end = answer;
  };
  Configure(AllowAll() + RouteTo("c",
                                 "retry_policy { retry_on: \"retriable-status-codes\" "
                                 "retriable_status_codes: 503 num_retries { value: 2 } "
                                 "retry_back_off { base_interval { nanos: 1000000 } } }"),
            {{"c", {v1.endpoint()}, ""}});
  Client client(bed, kFrontend);
  for (bool http2 : {false, true}) {
    auto* c = client.OpenHttp(kVip, http2);
    failures = 2;
    // The body is sent again with every attempt.
    auto call = bed.Call(c, Bed::Head("POST", "/"), "payload");
    EXPECT_EQ(call->status(), 200);
    EXPECT_EQ(call->body, "ok:payload");
    EXPECT_EQ(v1.calls.back()->head.headers.Get("x-envoy-attempt-count"), "3");
    failures = 3;
    auto failed = bed.Get(c, "/");
    EXPECT_EQ(failed->status(), 503);
    EXPECT_EQ(failed->body, "busy");
  }
  EXPECT_NE(bed.Metrics().find("response_flags=\"URX\""), std::string::npos);
}

TEST_F(WaypointHttp, RetryGoesToAnotherHost) {
  FakeUpstream good(bed.loop, "good"), bad(bed.loop, "bad");
  bad.handler = [](UpstreamCall& call) { call.Reply(503, "bad"); };
  Configure(
      AllowAll() +
          RouteTo("c",
                  "retry_policy { retry_on: \"503\" num_retries { value: 1 } "
                  "retry_back_off { base_interval { nanos: 1000000 } } retry_host_predicate { "
                  "name: \"envoy.retry_host_predicates.previous_hosts\" } "
                  "host_selection_retry_max_attempts: 10 }"),
      {{"c", {good.endpoint(), bad.endpoint()}, "", "ROUND_ROBIN"}});
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, false);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(bed.Get(c, "/")->body, "good");
  EXPECT_GT(bad.calls.size(), 5u);
}

TEST_F(WaypointHttp, TimeoutIs504) {
  FakeUpstream v1(bed.loop, "v1");
  v1.handler = [](UpstreamCall&) {};  // never answers
  Configure(AllowAll() +
                "routes { match { prefix: \"/\" } route { cluster: \"c\" timeout { nanos: "
                "200000000 } } } ",
            {{"c", {v1.endpoint()}, ""}});
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, false);
  auto start = std::chrono::steady_clock::now();
  auto call = bed.Get(c, "/slow");
  auto took = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(call->status(), 504);
  EXPECT_EQ(call->body, "upstream request timeout");
  EXPECT_GE(took, milliseconds(190));
  EXPECT_LT(took, milliseconds(2000));
  bed.Until([&] { return v1.calls[0]->closed; });  // the upstream is told
}

TEST_F(WaypointHttp, PerTryTimeoutRetries) {
  FakeUpstream v1(bed.loop, "v1");
  v1.handler = [&](UpstreamCall& call) {
    if (v1.calls.size() >= 2) call.Reply(200, "second");
  };
  Configure(AllowAll() + RouteTo("c",
                                 "retry_policy { retry_on: \"5xx\" num_retries { value: 2 } "
                                 "per_try_timeout { nanos: 100000000 } retry_back_off { "
                                 "base_interval { nanos: 1000000 } } }"),
            {{"c", {v1.endpoint()}, ""}});
  Client client(bed, kFrontend);
  EXPECT_EQ(bed.Get(client.OpenHttp(kVip, false), "/")->body, "second");
}

TEST_F(WaypointHttp, NobodyThere) {
  Configure(AllowAll() + RouteTo("empty", "", "path: \"/empty\"") +
                RouteTo("missing", "", "path: \"/missing\"") +
                RouteTo("dead", "", "path: \"/dead\""),
            {{"empty", {}, ""},
             {"dead", {{.address = "127.0.0.1:1", .tunnel = "", .identity = ""}}, ""}});
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, false);
  auto empty = bed.Get(c, "/empty");
  EXPECT_EQ(empty->status(), 503);
  EXPECT_EQ(empty->body, "no healthy upstream");
  EXPECT_EQ(bed.Get(c, "/missing")->status(), 503);
  auto dead = bed.Get(c, "/dead");
  EXPECT_EQ(dead->status(), 503);
  EXPECT_EQ(dead->body.find("upstream connect error or disconnect/reset before headers"), 0u);
  std::string metrics = bed.Metrics();
  for (const char* flag : {"UH", "NC", "UF"}) {
    EXPECT_NE(metrics.find(std::string("response_flags=\"") + flag), std::string::npos) << flag;
  }
}

TEST_F(WaypointHttp, WrongIdentityAtTheEndpointIsRefused) {
  FakeUpstream thief(bed.loop, "thief", bed.ca.Context("spiffe://cluster.local/ns/x/sa/thief"));
  FakeUpstream unnamed(bed.loop, "unnamed", bed.ca.Context(kBackend));
  Configure(AllowAll() + RouteTo("c", "", "path: \"/thief\"") + RouteTo("u"),
            {{"c", {thief.endpoint(kBackend)}, ""}, {"u", {unnamed.endpoint("")}, ""}});
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, false);
  EXPECT_EQ(bed.Get(c, "/thief")->status(), 503);
  EXPECT_EQ(bed.Get(c, "/unnamed")->status(), 503);  // nobody said who it is
  EXPECT_TRUE(thief.calls.empty());
  EXPECT_TRUE(unnamed.calls.empty());
}

TEST_F(WaypointHttp, BigBodiesBothWaysWithSlowReaders) {
  FakeUpstream v1(bed.loop, "v1", bed.ca.Context(kBackend));
  constexpr size_t kSize = 8 << 20;
  v1.handler = [](UpstreamCall& call) {
    call.on_end = [](UpstreamCall& c) {
      http::ResponseHead head;
      head.status = 200;
      c.stream->SendResponse(head, false);
      c.stream->SendData(c.body, true);  // echo
    };
  };
  Configure(AllowAll() + RouteTo("c"), {{"c", {v1.endpoint()}, kLikeDownstream}});
  Client client(bed, kFrontend);
  std::string body(kSize, 0);
  for (size_t i = 0; i < kSize; ++i) body[i] = static_cast<char>(i * 2654435761u >> 24);
  for (bool http2 : {false, true}) {
    auto* c = client.OpenHttp(kVip, http2);
    auto call = bed.Start(c, Bed::Head("POST", "/echo"), false);
    size_t sent = 0;
    bool paused = false;
    size_t most = 0;
    bed.Until(
        [&] {
          while (sent < kSize && call->stream && !call->stream->Overfull()) {
            size_t n = std::min<size_t>(65536, kSize - sent);
            call->stream->SendData({body.data() + sent, n}, sent + n == kSize);
            sent += n;
          }
          // A reader that stops and goes: what piles up in between must stay bounded.
          if (call->stream && sent == kSize) {
            paused = !paused;
            call->stream->PauseReading(paused);
          }
          most = std::max(most, call->body.size());
          return call->ended;
        },
        std::chrono::seconds(60));
    EXPECT_EQ(call->status(), 200);
    EXPECT_EQ(call->body.size(), kSize);
    EXPECT_TRUE(call->body == body);
  }
}

TEST_F(WaypointHttp, ASlowClientHoldsTheUpstreamBack) {
  FakeUpstream v1(bed.loop, "v1");
  size_t offered = 0;
  constexpr size_t kSize = 64 << 20;
  std::string block(65536, 'x');
  auto feed = [&](UpstreamCall& c) {
    while (offered < kSize && !c.stream->Overfull()) {
      offered += block.size();
      c.stream->SendData(block, offered >= kSize);
    }
  };
  v1.handler = [&](UpstreamCall& call) {
    http::ResponseHead head;
    head.status = 200;
    call.stream->SendResponse(head, false);
    call.on_writable = feed;
    feed(call);
  };
  Configure(AllowAll() + RouteTo("c"), {{"c", {v1.endpoint()}, ""}});
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, true);
  auto call = bed.Start(c, Bed::Head("GET", "/big"), true);
  call->discard = true;
  bed.Until([&] { return call->has_response; });
  call->stream->PauseReading(true);
  bed.RunFor(milliseconds(700));
  // Windows and socket buffers on the way, not the whole answer.
  EXPECT_LT(offered, size_t{24} << 20);
  call->stream->PauseReading(false);
  bed.Until([&] { return call->ended; }, std::chrono::seconds(60));
  EXPECT_EQ(call->bytes, kSize);
}

TEST_F(WaypointHttp, TrailersAndGrpcStatus) {
  FakeUpstream v1(bed.loop, "v1", bed.ca.Context(kBackend));
  v1.handler = [](UpstreamCall& call) {
    call.on_end = [](UpstreamCall& c) {
      http::ResponseHead head;
      head.status = 200;
      head.headers.Add("content-type", "application/grpc");
      c.stream->SendResponse(head, false);
      c.stream->SendData("message", false);
      http::HeaderList trailers;
      trailers.Add("grpc-status", "5");
      c.stream->SendTrailers(trailers);
    };
  };
  Configure(AllowAll() + RouteTo("c"), {{"c", {v1.endpoint()}, kHttp2Upstream}});
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, true);
  http::RequestHead head = Bed::Head("POST", "/pkg.Service/Method");
  head.headers.Add("content-type", "application/grpc");
  head.headers.Add("te", "trailers");
  auto call = bed.Call(c, head, "request");
  EXPECT_EQ(call->body, "message");
  EXPECT_EQ(call->trailers.Get("grpc-status"), "5");
  bed.RunFor(milliseconds(50));
  std::string metrics = bed.Metrics();
  EXPECT_NE(metrics.find("grpc_response_status=\"5\""), std::string::npos);
  EXPECT_NE(metrics.find("request_protocol=\"grpc\""), std::string::npos);
}

TEST_F(WaypointHttp, RequestStreamsBeforeItEnds) {
  FakeUpstream v1(bed.loop, "v1");
  v1.handler = [](UpstreamCall& call) {
    http::ResponseHead head;
    head.status = 200;
    call.stream->SendResponse(head, false);
    call.stream->SendData("early", false);
    call.on_end = [](UpstreamCall& c) { c.stream->SendData("late:" + c.body, true); };
  };
  Configure(AllowAll() + RouteTo("c"), {{"c", {v1.endpoint()}, kHttp2Upstream}});
  Client client(bed, kFrontend);
  auto call = bed.Start(client.OpenHttp(kVip, true), Bed::Head("POST", "/"), false);
  call->stream->SendData("one", false);
  bed.Until([&] { return call->body == "early"; });
  call->stream->SendData("two", true);
  bed.Until([&] { return call->ended; });
  EXPECT_EQ(call->body, "earlylate:onetwo");
}

TEST_F(WaypointHttp, ClientAbortReachesTheUpstream) {
  FakeUpstream v1(bed.loop, "v1", bed.ca.Context(kBackend));
  v1.handler = [](UpstreamCall&) {};
  Configure(AllowAll() + RouteTo("c"), {{"c", {v1.endpoint()}, kLikeDownstream}});
  Client client(bed, kFrontend);
  for (bool http2 : {false, true}) {
    size_t before = v1.calls.size();
    auto call = bed.Start(client.OpenHttp(kVip, http2), Bed::Head("GET", "/"), true);
    bed.Until([&] { return v1.calls.size() == before + 1; });
    call->stream->Reset(http::ResetCode::kCancel);
    bed.Until([&] { return v1.calls.back()->closed; });
  }
  bed.RunFor(milliseconds(50));
  EXPECT_NE(bed.Metrics().find("response_flags=\"DC\""), std::string::npos);
}

TEST_F(WaypointHttp, UpstreamDeathBeforeAndWithinTheAnswer) {
  auto v1 = std::make_unique<FakeUpstream>(bed.loop, "v1");
  v1->handler = [](UpstreamCall& call) {
    if (call.head.path == "/early") return;
    http::ResponseHead head;
    head.status = 200;
    call.stream->SendResponse(head, false);
    call.stream->SendData("half", false);
  };
  Configure(AllowAll() + RouteTo("c"), {{"c", {v1->endpoint()}, ""}});
  Client client(bed, kFrontend);
  auto early = bed.Start(client.OpenHttp(kVip, true), Bed::Head("POST", "/early"), true);
  auto half = bed.Start(client.OpenHttp(kVip, true), Bed::Head("GET", "/half"), true);
  bed.Until([&] { return v1->calls.size() == 2 && half->body == "half"; });
  v1->Kill();
  bed.Until([&] { return early->closed || early->ended; });
  EXPECT_EQ(early->status(), 503);
  bed.Until([&] { return half->closed; });
  EXPECT_FALSE(half->ended) << "a cut answer must not look whole";
}

TEST_F(WaypointHttp, AClosedIdleConnectionIsNotTheClientsProblem) {
  FakeUpstream v1(bed.loop, "v1");
  v1.handler = [](UpstreamCall& call) {
    // Says keep-alive and closes: the race that every server with an idle timeout has.
    call.Reply(200, "ok");
  };
  Configure(AllowAll() + RouteTo("c"), {{"c", {v1.endpoint()}, ""}});
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, false);
  EXPECT_EQ(bed.Get(c, "/")->status(), 200);
  v1.handler = [n = 0](UpstreamCall& call) mutable {
    if (n++ == 0) {
      // The connection dies with the request unread.
      call.stream->Reset(http::ResetCode::kInternal);
      call.stream = nullptr;
      return;
    }
    call.Reply(200, "again");
  };
  EXPECT_EQ(bed.Get(c, "/")->body, "again");
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
  bed.RunFor(milliseconds(100));
  EXPECT_EQ(bed.Get(c, "/")->status(), 404);
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
  bed.RunFor(milliseconds(50));
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
