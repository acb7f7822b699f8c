// SPDX-License-Identifier: Apache-2.0
// Bodies through the waypoint: backpressure both ways, trailers, streaming, aborts.
#include <gtest/gtest.h>

#include "tests/integration/waypoint/http_fixture.h"

namespace qanat::waypoint::test {
namespace {

using std::chrono::milliseconds;

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
  bed.Until([&] { return bed.Metrics().find("grpc_response_status=\"5\"") != std::string::npos; });
  std::string metrics = bed.Metrics();
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
  bed.Until([&] { return bed.Metrics().find("response_flags=\"DC\"") != std::string::npos; });
}

}  // namespace
}  // namespace qanat::waypoint::test
