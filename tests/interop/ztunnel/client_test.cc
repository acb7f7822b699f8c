// SPDX-License-Identifier: Apache-2.0
// A stock Envoy opens tunnels to our node proxy's 15008 in a pod, and reaches the application there
// or the refusal that the stock proxy would give it.
#include <gmock/gmock.h>

#include "common/base/program.h"
#include "tests/interop/ztunnel/bed.h"

namespace qanat::interop {
namespace {

using testing::AnyOf;
using testing::Eq;
using testing::Ge;
using testing::HasSubstr;
using testing::StartsWith;
using tls::testing::TestCa;

constexpr uint16_t kPlain = 9000, kConnect = 9002;

class EnvoyCalls : public PeerBed {
 protected:
  EnvoyOptions Options(const std::string& expect = kBackend) const {
    EnvoyOptions options;
    options.client_port = kPlain;
    options.connect_port = kConnect;
    options.peer_ip = backend_->ip();
    options.peer_port = 15008;
    options.expect = expect;
    options.authority = backend_->At(8080);
    return options;
  }
  void Run(const std::string& expect = kBackend) { RunEnvoy(Options(expect)); }
  Tcp Call() override {
    return ConnectFrom(there_->netns(), "127.0.0.1:" + std::to_string(kPlain));
  }
  std::unique_ptr<Server> Application(Serve serve) override {
    return std::make_unique<Server>(backend_->netns(), backend_->At(8080), std::move(serve));
  }
  // Asks through Envoy for any authority: the head of our answer as HTTP/1.1.
  std::string Ask(const std::string& authority) {
    Tcp tcp = ConnectFrom(there_->netns(), "127.0.0.1:" + std::to_string(kConnect));
    tcp.Send("CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\n\r\n");
    std::string head;
    while (head.find("\r\n\r\n") == std::string::npos) {
      const std::string byte = tcp.Read(1);
      if (byte.empty()) return head.empty() ? "no answer, then " + tcp.Next() : head;
      head += byte;
    }
    return head;
  }
  long Tunnels() const { return envoy_->Stat("cluster.tunnel.upstream_cx_http2_total"); }
  void PutDeny() {
    auto deny = TestMesh::MakePolicy("deny", istio::security::DENY);
    auto* match = deny.add_rules()->add_clauses()->add_matches();
    match->add_principals()->set_exact("cluster.local/ns/shop/sa/envoy");
    Put(deny);
  }
  // No answer from the application, which sees no connection either.
  void ExpectNothingPasses() {
    auto server = Application(Server::Echo());
    Tcp tcp = Call();
    tcp.Send("never arrives");
    EXPECT_THAT(tcp.Next(8000), AnyOf("eof", "reset"));
    EXPECT_EQ(server->accepted(), 0);
  }
};

TEST_F(EnvoyCalls, EchoAndHalfClose) {
  Run();
  EchoAndHalfClose();
  EXPECT_TRUE(n2_->Counts("istio_tcp_connections_closed_total",
                          {std::string("source_principal=\"") + kEnvoy,
                           std::string("destination_principal=\"") + kBackend,
                           "connection_security_policy=\"mutual_tls\""},
                          Eq(1)));
}
TEST_F(EnvoyCalls, ServerSpeaksFirst) {
  Run();
  ServerSpeaksFirst();
}
TEST_F(EnvoyCalls, ServerEndsFirst) {
  Run();
  EXPECT_EQ(ServerEndsFirst(8 << 20), "still here, eof");
}
TEST_F(EnvoyCalls, BulkBothWays) {
  Run();
  BulkBothWays();
}
TEST_F(EnvoyCalls, StreamsShareOneConnection) {
  Run();
  Many(50);
  EXPECT_EQ(Tunnels(), 1);
  EXPECT_EQ(envoy_->Stat("cluster.tunnel.upstream_rq_total"), 50);
}

TEST_F(EnvoyCalls, AThousandStreamsAtOnce) {
  RaiseFileLimit();
  Run();
  Many(1000);
  EXPECT_EQ(envoy_->Stat("cluster.tunnel.upstream_rq_total"), 1000);
  EXPECT_GE(Tunnels(), 1000 / 200) << "no more than we announce";
}

TEST_F(EnvoyCalls, AResetOfEitherEndArrives) {
  Run();
  EXPECT_EQ(ServerResets(), "eof");
  EXPECT_EQ(ClientResets(), "reset");
}

TEST_F(EnvoyCalls, AnswersAreThoseOfTheStockProxy) {
  Run();
  auto server = Application(Server::Echo());
  const std::string good = Ask(backend_->At(8080));
  EXPECT_THAT(good, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(good, HasSubstr("\r\nbaggage: "));
  EXPECT_THAT(good, HasSubstr("k8s.namespace.name=shop"));
  EXPECT_THAT(Ask(frontend_->At(8080)), StartsWith("HTTP/1.1 400"));  // another pod's address
  EXPECT_THAT(Ask("nobody.shop.svc.cluster.local:80"), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(Ask(backend_->At(15008)), StartsWith("HTTP/1.1 503"));  // the proxy's own port
  EXPECT_THAT(Ask(backend_->At(9)), StartsWith("HTTP/1.1 503"));      // nobody listens
  EXPECT_THAT(Ask(backend_->At(8080)), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(Tunnels(), 1) << "a refusal ends a stream, not the tunnel";
}

TEST_F(EnvoyCalls, DeniedByPolicyIs401AndEndsWhatLives) {
  Run();
  auto server = Application(Server::Echo());
  Tcp live = Call();
  live.Send("hello");
  ASSERT_EQ(live.Read(5), "hello");
  EXPECT_EQ(live.Next(200), "nothing");
  PutDeny();
  EXPECT_THAT(live.Next(), AnyOf("eof", "reset"));
  EXPECT_THAT(Ask(backend_->At(8080)), StartsWith("HTTP/1.1 401"));
  EXPECT_TRUE(
      n2_->Counts("qanat_connections_refused_total", {"destination", "policy_denied"}, Ge(1)));
  const int before = server->accepted();
  Tcp denied = Call();
  denied.Send("x");
  EXPECT_THAT(denied.Next(), AnyOf("eof", "reset"));
  EXPECT_EQ(server->accepted(), before);
  control_plane_.Remove("Authorization", "shop/deny");
  EXPECT_TRUE(Eventually([&] { return Ask(backend_->At(8080)).starts_with("HTTP/1.1 200"); }));
  EXPECT_EQ(Tunnels(), 1);
}

TEST_F(EnvoyCalls, WithACertificateOfAnotherAuthority) {
  RunEnvoy(Options(), TestCa::Make().Issue(std::string(kEnvoy)));
  ExpectNothingPasses();
  EXPECT_TRUE(n2_->Counts("qanat_inbound_tunnel_errors_total", {"tls_failure"}, Ge(1)));
}
TEST_F(EnvoyCalls, WithAnIdentityOfAnotherTrustDomain) {
  RunEnvoy(Options(), "spiffe://evil.example/ns/shop/sa/envoy");
  ExpectNothingPasses();
  EXPECT_TRUE(n2_->Counts("qanat_inbound_tunnel_errors_total", {}, Ge(1)));
}
TEST_F(EnvoyCalls, ItRefusesOurIdentity) {
  Run(kSomebodyElse);
  ExpectNothingPasses();
  EXPECT_TRUE(EnvoyCounts("cluster.tunnel.ssl.fail_verify_san", Ge(1)));
}

TEST_F(EnvoyCalls, ItSeesOurGoawayAndLosesNothing) {
  Run();
  auto server = Application(Server::Echo());
  Tcp tcp = Call();
  tcp.Send("before");
  ASSERT_EQ(tcp.Read(6), "before");
  EXPECT_EQ(envoy_->Stat("cluster.tunnel.upstream_cx_close_notify"), 0);
  n2_->child().Signal(SIGTERM);
  EXPECT_TRUE(EnvoyCounts("cluster.tunnel.upstream_cx_close_notify", Eq(1)));
  // The stream lives on; a new one finds no listener.
  ASSERT_TRUE(tcp.Send("after"));
  EXPECT_EQ(tcp.Read(5), "after");
  EXPECT_THAT(Ask(backend_->At(8080)), StartsWith("HTTP/1.1 503"));
  EXPECT_EQ(n2_->child().Wait(200), "running");
  tcp.Finish();
  EXPECT_EQ(tcp.Next(), "eof");
  EXPECT_EQ(n2_->child().Wait(3000), "exit code 0");
}

TEST_F(EnvoyCalls, OurGoawayUnderLoadLosesNothing) {
  Run();
  const int lost = Load(20, 1, 1 << 19, [this] { n2_->child().Signal(SIGTERM); });
  EXPECT_EQ(lost, 0);
  EXPECT_TRUE(EnvoyCounts("cluster.tunnel.upstream_cx_close_notify", Ge(1)));
  EXPECT_EQ(n2_->child().Wait(5000), "exit code 0");
}

}  // namespace
}  // namespace qanat::interop
