// SPDX-License-Identifier: Apache-2.0
// What bad input gets, drain, certificates, several workers.
#include <gtest/gtest.h>

#include "tests/integration/waypoint/bed.h"

namespace qanat::waypoint::test {
namespace {

using std::chrono::milliseconds;

constexpr const char* kVip = "10.96.0.10:80";

Resources Simple(const FakeUpstream& v1) {
  Resources r;
  TestService s;
  s.virtual_host = RbacOverrides("", "", false) +
                   "routes { match { prefix: \"/\" } route { cluster: \"c\" timeout { } } } ";
  r.services = {s};
  r.clusters = {{"c", {v1.endpoint()}, ""}};
  return r;
}

// Raw bytes on a stream, and all that comes back.
struct Raw final : net::TransportEvents {
  Raw(net::TransportPtr t, const std::string& send) : transport(std::move(t)) {
    transport->SetEvents(this);
    transport->ReadEnable(true);
    std::string copy = send;
    iovec part{copy.data(), copy.size()};
    transport->Write({&part, 1});
  }
  void OnReadable() override {
    uint8_t buffer[4096];
    auto got = transport->Read(buffer);
    if (got.ok()) text.append(reinterpret_cast<char*>(buffer), got.bytes);
    if (got.ok() || got.kind == net::IoResult::Kind::kWouldBlock) return;
    ended = true;
    transport->ReadEnable(false);
  }
  void OnWritable() override {}
  net::TransportPtr transport;
  std::string text;
  bool ended = false;
};

TEST(WaypointLife, MalformedHttpEndsTheConnectionNotTheProcess) {
  Bed bed;
  FakeUpstream v1(bed.loop, "v1");
  bed.Push(Simple(v1));
  Client client(bed, kFrontend);
  const std::string cases[] = {
      "GARBAGE\r\n\r\n",
      "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
      "GET / HTTP/1.1\r\n\r\n",  // no Host
      "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: "
      "chunked\r\n\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
      "GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(100000, 'a') + "\r\n\r\n",
      std::string("\x16\x03\x01\x02\x00\x01\x00", 7) + std::string(100, 'x'),
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + std::string(100, '\xff'),
      "GET x HTTP/1.1\r\nHost: x\r\n\r\n",
  };
  for (const std::string& bytes : cases) {
    auto t = client.Open(kVip);
    ASSERT_NE(t, nullptr);
    Raw raw(std::move(t), bytes);
    bed.Until([&] { return raw.ended || !raw.text.empty(); });
    EXPECT_EQ(raw.text.find("HTTP/1.1 200"), std::string::npos) << bytes.substr(0, 60);
  }
  EXPECT_TRUE(v1.calls.empty());
  EXPECT_EQ(bed.Get(client.OpenHttp(kVip, false), "/")->status(), 200);
}

TEST(WaypointLife, GarbageAndStrangersOnThePort) {
  Bed bed;
  FakeUpstream v1(bed.loop, "v1");
  bed.Push(Simple(v1));
  for (const char* bytes :
       {"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}) {
    net::ConnectOptions options;
    options.to = bed.address;
    std::unique_ptr<Raw> raw;
    net::Connector connector(bed.loop, options, [&](Result<Fd> fd) {
      ASSERT_TRUE(fd.has_value());
      raw = std::make_unique<Raw>(net::MakeSocketTransport(bed.loop, std::move(*fd)), bytes);
    });
    bed.Until([&] { return raw != nullptr; });
    if (std::string_view(bytes).size() > 3) bed.Until([&] { return raw->ended; });
  }
  // A certificate of another CA, and one of another trust domain.
  auto other_ca = tls::testing::TestCa::Make("other");
  std::swap(bed.ca, other_ca);
  Client foreign(bed, kFrontend);
  std::swap(bed.ca, other_ca);
  Client domain(bed, "spiffe://elsewhere/ns/shop/sa/frontend");
  bed.Until([&] { return !foreign.connected() || foreign.tunnel_closed; });
  bed.Until([&] { return !domain.connected() || domain.tunnel_closed; });
  EXPECT_NE(bed.Metrics().find("qanat_waypoint_bad_input_total{what=\"tls_handshake\"}"),
            std::string::npos);
  Client good(bed, kFrontend);
  EXPECT_EQ(bed.Get(good.OpenHttp(kVip, false), "/")->status(), 200);
}

TEST(WaypointLife, DrainLetsRequestsFinish) {
  Bed bed(2);
  FakeUpstream v1(bed.loop, "v1");
  v1.handler = [](UpstreamCall&) {};
  bed.Push(Simple(v1));
  Client client(bed, kFrontend);
  auto* h1 = client.OpenHttp(kVip, false);
  auto* h2 = client.OpenHttp(kVip, true);
  auto a = bed.Start(h1, Bed::Head("GET", "/a"), true);
  auto b = bed.Start(h2, Bed::Head("GET", "/b"), true);
  bed.Until([&] { return v1.calls.size() == 2; });
  bool drained = false;
  bed.proxy->Drain([&] { drained = true; });
  bed.RunFor(milliseconds(200));
  EXPECT_FALSE(drained);
  for (auto& call : v1.calls) call->Reply(200, "finished");
  bed.Until([&] { return a->ended && b->ended; });
  EXPECT_EQ(a->body, "finished");
  EXPECT_EQ(b->body, "finished");
  bed.Until([&] { return drained; });
  Client late(bed, kFrontend);
  EXPECT_FALSE(late.connected());
}

TEST(WaypointLife, DrainEndsAtTheDeadline) {
  Bed bed(1, [](ProxySettings& s) { s.drain_timeout = milliseconds(200); });
  FakeUpstream v1(bed.loop, "v1");
  v1.handler = [](UpstreamCall&) {};
  bed.Push(Simple(v1));
  Client client(bed, kFrontend);
  auto a = bed.Start(client.OpenHttp(kVip, false), Bed::Head("GET", "/"), true);
  bed.Until([&] { return v1.calls.size() == 1; });
  bool drained = false;
  bed.proxy->Drain([&] { drained = true; });
  bed.Until([&] { return drained; });
}

TEST(WaypointLife, RenewedCertificateLosesNothing) {
  Bed bed;
  FakeUpstream v1(bed.loop, "v1", bed.ca.Context(kBackend));
  bed.Push(Simple(v1));
  Client client(bed, kFrontend);
  auto* c = client.OpenHttp(kVip, true);
  for (int i = 0; i < 50; ++i) {
    if (i % 5 == 0) {
      auto context = bed.ca.Context(kWaypoint);
      bed.proxy->SetCertificates(context, context);
    }
    ASSERT_EQ(bed.Get(c, "/")->status(), 200) << i;
  }
  Client fresh(bed, kFrontend);
  EXPECT_EQ(bed.Get(fresh.OpenHttp(kVip, false), "/")->status(), 200);
}

TEST(WaypointLife, ManyRequestsOverTwoWorkersWhileConfigurationChanges) {
  Bed bed(2);
  FakeUpstream v1(bed.loop, "v1", bed.ca.Context(kBackend)), v2(bed.loop, "v2");
  Resources r = Simple(v1);
  r.clusters[0].endpoints.push_back(v2.endpoint());
  bed.Push(r);
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<http::ClientConnection*> connections;
  for (int i = 0; i < 6; ++i) {
    clients.push_back(std::make_unique<Client>(bed, kFrontend));
    connections.push_back(clients.back()->OpenHttp(kVip, i % 2 == 0));
  }
  int done = 0;
  for (int round = 0; round < 40; ++round) {
    std::vector<std::unique_ptr<ClientCall>> calls;
    for (auto* c : connections) calls.push_back(bed.Start(c, Bed::Head("GET", "/"), true));
    if (round % 4 == 0) r.Apply(*bed.store);
    bed.Until([&] {
      for (auto& call : calls) {
        if (!call->ended && !call->closed) return false;
      }
      return true;
    });
    for (auto& call : calls) done += call->status() == 200 ? 1 : 0;
  }
  EXPECT_EQ(done, 240);
  EXPECT_GT(v1.calls.size(), 50u);
  EXPECT_GT(v2.calls.size(), 50u);
}

TEST(WaypointLife, DestroyedInTheMiddle) {
  auto bed = std::make_unique<Bed>(2);
  FakeUpstream v1(bed->loop, "v1", bed->ca.Context(kBackend));
  v1.handler = [](UpstreamCall&) {};
  bed->Push(Simple(v1));
  Client client(*bed, kFrontend);
  auto a = bed->Start(client.OpenHttp(kVip, true), Bed::Head("GET", "/"), true);
  auto b = bed->Start(client.OpenHttp(kVip, false), Bed::Head("POST", "/"), false);
  b->stream->SendData("part", false);
  bed->Until([&] { return v1.calls.size() == 2; });
  bed->proxy.reset();
  bed->Until([&] { return a->closed && b->closed; });
}

}  // namespace
}  // namespace qanat::waypoint::test
