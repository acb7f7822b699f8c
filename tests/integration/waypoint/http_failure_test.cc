// SPDX-License-Identifier: Apache-2.0
// HTTP through the waypoint where something fails: retries, timeouts, identities, upstream death.
#include <gtest/gtest.h>

#include "tests/integration/waypoint/http_fixture.h"

namespace qanat::waypoint::test {
namespace {

using std::chrono::milliseconds;

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
  EXPECT_LT(took, milliseconds(10000));
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

}  // namespace
}  // namespace qanat::waypoint::test
