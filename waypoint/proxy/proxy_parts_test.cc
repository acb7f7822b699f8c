// SPDX-License-Identifier: Apache-2.0
// The parts of the data path that need no sockets: who calls, heads, the log line, ejection, relay.
#include <gtest/gtest.h>

#include <regex>

#include "waypoint/config/effective.h"
#include "waypoint/proxy/cluster_state.h"
#include "waypoint/proxy/peer.h"
#include "waypoint/proxy/record.h"
#include "waypoint/proxy/relay.h"
#include "waypoint/proxy/request_head.h"

namespace qanat::waypoint {
namespace {

using std::chrono::milliseconds;

constexpr const char* kFrontend = "spiffe://cluster.local/ns/shop/sa/frontend";

TEST(Peer, BaggageIsBelievedOnlyWithinTheProvenNamespace) {
  Peer own = MakePeer(kFrontend, {}, {},
                      "k8s.namespace.name=shop, k8s.deployment.name=frontend,service.name=fe,"
                      "service.version=v%201,k8s.cluster.name=c1,junk,=x");
  EXPECT_EQ(own.ns, "shop");
  EXPECT_EQ(own.workload, "frontend");
  EXPECT_EQ(own.canonical_name, "fe");
  EXPECT_EQ(own.canonical_revision, "v 1");
  EXPECT_EQ(own.cluster, "c1");
  EXPECT_EQ(own.principal(), "cluster.local/ns/shop/sa/frontend");
  Peer liar = MakePeer(kFrontend, {}, {}, "k8s.namespace.name=bank,k8s.deployment.name=teller");
  EXPECT_EQ(liar.ns, "shop");
  EXPECT_EQ(liar.workload, "");
  Peer big = MakePeer(kFrontend, {}, {},
                      "k8s.namespace.name=shop,service.name=" + std::string(10000, 'x'));
  EXPECT_LE(big.canonical_name.size(), 256u);
}

TEST(Authority, Forms) {
  struct {
    const char* text;
    bool valid;
    int port;
  } cases[] = {
      {"10.0.0.1:80", true, 80},
      {"[fd00::1]:443", true, 443},
      {"a.b.svc:8080", true, 8080},
      {"", false, 0},
      {"a", false, 0},
      {"a:", false, 0},
      {"a:0", false, 0},
      {"a:70000", false, 0},
      {":80", false, 0},
      {"a:80x", false, 0},
      {"a b:80", false, 0},
      {"a@b:80", false, 0},
      {"10.0.0.1:0", false, 0},
      {"fd00::1:80", false, 0},
      {"a:+80", false, 0},
  };
  for (const auto& c : cases) {
    Authority a = ParseAuthority(c.text);
    EXPECT_EQ(a.valid, c.valid) << c.text;
    if (c.valid) EXPECT_EQ(a.port, c.port);
  }
}

http::RequestHead Head(std::string path = "/") {
  http::RequestHead head;
  head.method = "GET";
  head.authority = "h";
  head.path = std::move(path);
  return head;
}

TEST(PrepareRequest, WhatAClientMayNotSayIsTakenOut) {
  HttpChain chain;
  chain.path.dot_segments = true;
  chain.use_remote_address = true;
  Peer peer = MakePeer(kFrontend, *net::SocketAddress::Parse("10.1.1.1:999"), {}, "");
  std::mt19937_64 random(1);
  http::RequestHead head = Head("/a/../b");
  head.headers.Add("x-forwarded-client-cert", "By=spiffe://evil");
  head.headers.Add("x-envoy-original-path", "/x");
  head.headers.Add("x-forwarded-for", "1.2.3.4");
  EXPECT_EQ(PrepareRequest(chain, peer, random, head), HeadStatus::kOk);
  EXPECT_EQ(head.path, "/b");
  EXPECT_FALSE(head.headers.Has("x-forwarded-client-cert"));
  EXPECT_FALSE(head.headers.Has("x-envoy-original-path"));
  EXPECT_EQ(head.headers.Get("x-forwarded-for"), "1.2.3.4, 10.1.1.1");
  std::string id(*head.headers.Get("x-request-id"));
  EXPECT_TRUE(std::regex_match(
      id, std::regex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")))
      << id;
  http::RequestHead again = Head();
  again.headers.Add("x-request-id", "mine");
  PrepareRequest(chain, peer, random, again);
  EXPECT_EQ(again.headers.Get("x-request-id"), "mine");
  http::RequestHead nobody = Head();
  nobody.authority.clear();
  EXPECT_EQ(PrepareRequest(chain, peer, random, nobody), HeadStatus::kNoAuthority);
  http::RequestHead bad = Head("no-slash");
  EXPECT_EQ(PrepareRequest(chain, peer, random, bad), HeadStatus::kBadPath);
}

TEST(RemoteAddress, OnlyTrustedHopsCount) {
  HttpChain chain;
  chain.use_remote_address = true;
  http::RequestHead head = Head();
  head.headers.Add("x-forwarded-for", "9.9.9.9, 8.8.8.8, 7.7.7.7");
  const net::IpAddress peer = *net::IpAddress::Parse("10.1.1.1");
  auto ask = [&] { return RemoteAddress(chain, HeadView(head), peer).ToString(); };
  EXPECT_EQ(ask(), "10.1.1.1");
  chain.xff_trusted_hops = 1;
  EXPECT_EQ(ask(), "7.7.7.7");
  chain.xff_trusted_hops = 2;
  EXPECT_EQ(ask(), "8.8.8.8");
  chain.xff_trusted_hops = 9;
  EXPECT_EQ(ask(), "10.1.1.1");
  chain.use_remote_address = false;
  chain.xff_trusted_hops = 0;
  EXPECT_EQ(ask(), "7.7.7.7");
}

TEST(Record, ALogLineCannotBeForged) {
  Record r;
  r.method = "GET";
  r.path = "/\"\n[forged] \"x";
  r.protocol = "HTTP/1.1";
  r.status = 200;
  r.user_agent = "a\r\nb\\";
  r.Set(Flag::kUpstreamConnectionFailure);
  r.Set(Flag::kRetryLimitExceeded);
  std::string text = FormatText(r, milliseconds(12));
  EXPECT_EQ(text.find('\n'), std::string::npos);
  EXPECT_NE(text.find("\"GET /\\x22\\x0a[forged] \\x22x HTTP/1.1\" 200 UF,URX"), std::string::npos)
      << text;
  std::string json = FormatJson(r, milliseconds(12));
  EXPECT_EQ(json.find('\n'), std::string::npos);
  EXPECT_NE(json.find("\"response_flags\":\"UF,URX\""), std::string::npos);
  EXPECT_NE(json.find("\"duration\":12"), std::string::npos);
  EXPECT_EQ(FlagsText(0), "-");
}

TEST(ClusterState, EjectsAndTakesBack) {
  auto config = std::make_shared<ClusterConfig>();
  config->lb = LbPolicy::kRoundRobin;
  config->outlier = OutlierConfig{.consecutive_5xx = 3,
                                  .consecutive_gateway = 0,
                                  .base_ejection = milliseconds(100),
                                  .max_ejection = milliseconds(150),
                                  .max_ejection_percent = 50};
  auto endpoints = std::make_shared<EndpointSet>();
  for (int i = 1; i <= 2; ++i) {
    Endpoint e;
    e.address = net::SocketAddress(net::IpAddress::V4(0x0a000000u + static_cast<uint32_t>(i)), 80);
    endpoints->endpoints.push_back(e);
  }
  ClusterState state;
  state.Update(config, endpoints);
  event::TimePoint now{};
  now += std::chrono::hours(1);
  auto pick = [&] { return *state.PickEndpoint([] { return 0ull; }, now, {}, 1); };
  auto bad = pick();
  state.Report(bad, 500, now);
  state.Report(bad, 200, now);
  for (int i = 0; i < 2; ++i) state.Report(bad, 500, now);
  EXPECT_LE(bad.state->ejected_until, now);  // not three in a row
  state.Report(bad, 0, now);
  EXPECT_GT(bad.state->ejected_until, now);
  for (int i = 0; i < 4; ++i) EXPECT_NE(pick().endpoint, bad.endpoint);
  // The other one may not go too: half is the limit.
  auto other = pick();
  for (int i = 0; i < 5; ++i) state.Report(other, 503, now);
  EXPECT_LE(other.state->ejected_until, now);
  now += milliseconds(101);
  bool back = false;
  for (int i = 0; i < 4; ++i) back = back || pick().endpoint == bad.endpoint;
  EXPECT_TRUE(back);
  // Counts survive an update of the endpoints.
  bad.state->active = 7;
  auto next = std::make_shared<EndpointSet>(*endpoints);
  state.Update(config, next);
  EXPECT_EQ(state.states()[bad.index]->active, 7u);
}

TEST(Relay, ByteExactWithHalfCloseOverSmallPipes) {
  event::EventLoop loop;
  auto [a, a_far] = net::MakePipe(loop, 1000);
  auto [b, b_far] = net::MakePipe(loop, 700);
  bool done = false, aborted = true;
  Relay relay(std::move(a), std::move(b), "first|", milliseconds(0), [&](bool was, std::string) {
    done = true;
    aborted = was;
  });
  std::string want = "first|", got, back;
  std::string out(100000, 0);
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<char>(i * 31);
  want += out;
  size_t sent = 0;
  bool ended = false, answered = false;
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!done && std::chrono::steady_clock::now() < end) {
    if (sent < out.size()) {
      iovec part{out.data() + sent, out.size() - sent};
      auto r = a_far->Write({&part, 1});
      if (r.ok()) sent += r.bytes;
    } else if (!ended) {
      ended = a_far->ShutdownWrite().ok();
    }
    uint8_t buffer[333];
    auto r = b_far->Read(buffer);
    if (r.ok()) got.append(reinterpret_cast<char*>(buffer), r.bytes);
    if (r.kind == net::IoResult::Kind::kEof && !answered) {
      // The other direction still works after the first has ended.
      std::string answer = "answer";
      iovec part{answer.data(), answer.size()};
      b_far->Write({&part, 1});
      b_far->ShutdownWrite();
      answered = true;
    }
    auto r2 = a_far->Read(buffer);
    if (r2.ok()) back.append(reinterpret_cast<char*>(buffer), r2.bytes);
    loop.RunOnce(milliseconds(0));
  }
  uint8_t buffer[333];
  for (auto r = a_far->Read(buffer); r.ok() && r.bytes > 0; r = a_far->Read(buffer)) {
    back.append(reinterpret_cast<char*>(buffer), r.bytes);
  }
  EXPECT_TRUE(done);
  EXPECT_FALSE(aborted);
  EXPECT_TRUE(got == want) << got.size();
  EXPECT_EQ(back, "answer");
  EXPECT_EQ(relay.bytes_a_to_b(), want.size());
}

TEST(Relay, AbortAndIdle) {
  event::EventLoop loop;
  for (bool idle : {false, true}) {
    auto [a, a_far] = net::MakePipe(loop);
    auto [b, b_far] = net::MakePipe(loop);
    bool done = false, aborted = false;
    Relay relay(std::move(a), std::move(b), "", milliseconds(idle ? 30 : 0),
                [&](bool was, std::string) {
                  done = true;
                  aborted = was;
                });
    if (!idle) a_far->Abort();
    auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!done && std::chrono::steady_clock::now() < end) loop.RunOnce(milliseconds(5));
    EXPECT_TRUE(aborted);
    uint8_t byte[1];
    EXPECT_EQ(b_far->Read(byte).kind, net::IoResult::Kind::kReset);
  }
}

}  // namespace
}  // namespace qanat::waypoint
