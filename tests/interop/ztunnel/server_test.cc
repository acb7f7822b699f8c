// SPDX-License-Identifier: Apache-2.0
// A stock Envoy terminates the tunnels of our node proxy: an application in a captured pod talks to
// one behind it.
#include <gmock/gmock.h>
#include <unistd.h>

#include "common/base/program.h"
#include "tests/interop/ztunnel/bed.h"

namespace qanat::interop {
namespace {

using testing::AnyOf;
using testing::Eq;
using testing::Ge;
using testing::HasSubstr;

class EnvoyServes : public PeerBed {
 protected:
  EnvoyOptions Options(const std::string& expect_client = kFrontend) const {
    EnvoyOptions options;
    options.server_ip = there_->ip();
    options.server_port = 15008;
    options.upstream_port = 8080;
    options.expect_client = expect_client;
    return options;
  }
  void Run(const std::string& expect_client = kFrontend, const std::string& identity = kEnvoy) {
    RunEnvoy(Options(expect_client), identity);
  }
  Tcp Call() override { return ConnectFrom(frontend_->netns(), there_->At(8080)); }
  std::unique_ptr<Server> Application(Serve serve) override {
    return std::make_unique<Server>(there_->netns(), "127.0.0.1:8080", std::move(serve));
  }
  // Nothing but an end comes, and nothing arrives.
  void ExpectRefused(const std::string& reason, const std::string& log) {
    auto server = Application(Server::Echo());
    Tcp tcp = Call();
    tcp.Send("never arrives");
    EXPECT_EQ(tcp.Next(), "reset");
    EXPECT_EQ(server->accepted(), 0);
    EXPECT_TRUE(n1_->Counts("qanat_connections_refused_total", {"source", reason}, Ge(1)));
    EXPECT_TRUE(n1_->Logs(log));
  }
};

TEST_F(EnvoyServes, EchoAndHalfClose) {
  Run();
  EchoAndHalfClose();
  // What Envoy was asked, and by whom.
  EXPECT_TRUE(Eventually([&] { return !envoy_->AccessLog().empty(); }));
  EXPECT_THAT(envoy_->AccessLog(),
              HasSubstr(std::string(kFrontend) + " CONNECT " + there_->At(8080) + " 200 "));
  EXPECT_THAT(envoy_->AccessLog(), HasSubstr("k8s.namespace.name=shop"));
  EXPECT_TRUE(n1_->Counts("istio_tcp_connections_closed_total",
                          {std::string("destination_principal=\"") + kEnvoy,
                           "connection_security_policy=\"mutual_tls\""},
                          Eq(1)));
}

TEST_F(EnvoyServes, ThroughAService) {
  auto service = TestMesh::MakeService("envoy", "10.96.0.10");
  Put(service);
  Announce("envoy", *there_, "n3", [&](TestMesh::Workload& w) { TestMesh::Join(w, service); });
  Run();
  auto server = Application(Server::Echo());
  Tcp tcp;
  ASSERT_TRUE(Eventually([&] {
    tcp = ConnectFrom(frontend_->netns(), "10.96.0.10:80");
    return tcp.Send("hello") && tcp.Next() == "data";
  }));
  EXPECT_EQ(tcp.Read(5), "hello");
  tcp.Close();
  EXPECT_TRUE(Eventually([&] {
    return envoy_->AccessLog().find(" CONNECT " + there_->At(8080)) != std::string::npos;
  })) << envoy_->AccessLog();
}

TEST_F(EnvoyServes, ServerSpeaksFirst) {
  Run();
  ServerSpeaksFirst();
}
// When its application ends first, Envoy passes that on and then wants no more of the stream
// (RST_STREAM with NO_ERROR). What the application said must still arrive whole, though what the
// client says later cannot reach it.
TEST_F(EnvoyServes, ServerEndsFirst) {
  Run();
  EXPECT_EQ(ServerEndsFirst(1 << 20), ", eof");
  EXPECT_TRUE(n1_->Counts("istio_tcp_connections_closed_total", {"response_flags=\"-\""}, Eq(1)));
}
// More than our window, and Envoy drops what it still has when its application ends first
// (RST_STREAM with INTERNAL_ERROR, seen with 1.40). Whatever it does: a part must not look whole.
TEST_F(EnvoyServes, ACutAnswerDoesNotLookWhole) {
  Run();
  const std::string data(8 << 20, 'x');
  auto server = Application([&](Tcp& tcp, const std::string&) {
    tcp.Send(data);
    tcp.Finish();
    tcp.Next();
  });
  Tcp tcp = Call();
  EXPECT_EQ(tcp.Next(), "data");
  ::usleep(300000);
  const size_t got = tcp.Read(data.size()).size();
  EXPECT_EQ(tcp.Next(), got == data.size() ? "eof" : "reset") << got << " bytes arrived";
}
TEST_F(EnvoyServes, BulkBothWays) {
  Run();
  BulkBothWays();
}

TEST_F(EnvoyServes, StreamsShareOneConnection) {
  Run();
  Many(50);
  // One a worker.
  EXPECT_TRUE(EnvoyCounts("http.hbone.downstream_cx_http2_total", Ge(1)));
  EXPECT_LE(envoy_->Stat("http.hbone.downstream_cx_http2_total"), Program::kWorkers);
  EXPECT_EQ(envoy_->Stat("http.hbone.downstream_rq_total"), 50);
}

TEST_F(EnvoyServes, AThousandStreamsAtOnce) {
  RaiseFileLimit();
  Run();
  Many(1000);
  EXPECT_EQ(envoy_->Stat("http.hbone.downstream_rq_total"), 1000);
  // A hundred a tunnel, as the stock proxy has it; each worker has its own.
  EXPECT_GE(envoy_->Stat("http.hbone.downstream_cx_http2_total"), 10);
  EXPECT_LE(envoy_->Stat("http.hbone.downstream_cx_http2_total"), 10 + Program::kWorkers);
}

TEST_F(EnvoyServes, ItsGoawaysUnderLoadLoseNothing) {
  EnvoyOptions options = Options();
  options.requests_per_connection = 20;
  RunEnvoy(options);
  EXPECT_EQ(Load(8, 40, 20000), 0);
  EXPECT_EQ(envoy_->Stat("http.hbone.downstream_rq_total"), 320);
  EXPECT_GE(envoy_->Stat("http.hbone.downstream_cx_http2_total"), 8) << "it said GOAWAY often";
}

TEST_F(EnvoyServes, AResetOfEitherEndArrives) {
  Run();
  EXPECT_EQ(ServerResets(), "reset");
  // Envoy takes our RST_STREAM for what it is, and closes what is behind it with FIN.
  EXPECT_THAT(ClientResets(), AnyOf("reset", "eof"));
  EXPECT_TRUE(EnvoyCounts("http.hbone.downstream_rq_rx_reset", Ge(1)));
}

TEST_F(EnvoyServes, ItRefusesOurIdentity) {
  Run(kSomebodyElse);
  ExpectRefused("connect_failed", "the peer refused our certificate");
  EXPECT_TRUE(EnvoyCounts("listener." + there_->ip() + "_15008.ssl.fail_verify_san", Ge(1)));
}

TEST_F(EnvoyServes, WeRefuseItsIdentity) {
  Run(kFrontend, kSomebodyElse);
  ExpectRefused("peer_identity_mismatch", kSomebodyElse);
}

TEST_F(EnvoyServes, ItsApplicationIsNotThere) {
  Run();
  Tcp tcp = Call();
  tcp.Send("x");
  EXPECT_EQ(tcp.Next(), "reset");
  EXPECT_TRUE(n1_->Counts("qanat_connections_refused_total", {"source", "refused_by_peer"}, Eq(1)));
  EXPECT_TRUE(n1_->Logs("http status: 503"));
}

TEST_F(EnvoyServes, AnEnvoyThatGoesIsNoticedAndReplaced) {
  Run();
  auto server = Application(Server::Echo());
  Tcp tcp = Call();
  tcp.Send("hello");
  ASSERT_EQ(tcp.Read(5), "hello");
  envoy_.reset();
  EXPECT_EQ(tcp.Next(), "reset");
  Run();
  Tcp next = Call();
  next.Send("hello");
  EXPECT_EQ(next.Read(5), "hello");
}

}  // namespace
}  // namespace qanat::interop
