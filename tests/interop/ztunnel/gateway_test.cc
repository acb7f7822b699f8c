// SPDX-License-Identifier: Apache-2.0
// A stock Envoy as the east-west gateway of another network: it takes the outer tunnel apart, and
// what is in it goes on to the node proxy of the far pod, which takes the inner one.
#include <gmock/gmock.h>

#include "tests/interop/ztunnel/bed.h"

namespace qanat::interop {
namespace {

using testing::Eq;
using testing::Ge;
using testing::HasSubstr;
using testing::Not;
using ztunnel::IpBytes;

constexpr const char* kService = "backend.shop.svc.cluster.local:80";

class EnvoyGateway : public PeerBed {
 protected:
  EnvoyGateway() {
    near_ = "near";
    far_ = "far";
  }
  void SetUp() override {
    PeerBed::SetUp();
    auto service = TestMesh::MakeService("backend", "10.96.0.10");
    service.mutable_addresses(0)->set_network(near_);
    Put(service);
    Announce("backend", *backend_, "n2", [&](TestMesh::Workload& w) {
      w.set_network(far_);
      TestMesh::Join(w, service);
      auto* gateway = w.mutable_network_gateway()->mutable_address();
      gateway->set_network(far_);
      gateway->set_address(IpBytes(there_->ip()));
    });
  }
  void Run(const std::string& expect_client = kFrontend, const std::string& identity = kEnvoy) {
    EnvoyOptions options;
    options.server_ip = there_->ip();
    options.server_port = 15008;
    options.upstream_ip = backend_->ip();
    options.upstream_port = 15008;
    options.expect_client = expect_client;
    RunEnvoy(options, identity);
    // What was put last is known: a call finds its way.
    if (expect_client != kFrontend || identity != kEnvoy) return;
    auto server = Application(Server::Echo());
    ASSERT_TRUE(Eventually([this] {
      Tcp tcp = Call();
      return tcp.Send("known") && tcp.Read(5) == "known";
    }));
  }
  Tcp Call() override { return ConnectFrom(frontend_->netns(), "10.96.0.10:80"); }
  std::unique_ptr<Server> Application(Serve serve) override {
    return std::make_unique<Server>(backend_->netns(), backend_->At(8080), std::move(serve));
  }
  long Streams() const { return envoy_->Stat("http.hbone.downstream_rq_total"); }
};

TEST_F(EnvoyGateway, BothAreAskedAndTheSourceIsProven) {
  Run();
  EchoAndHalfClose();
  // The gateway hears of the source as any peer does, and of no network.
  n1_.reset();  // it logs a stream that is over
  EXPECT_TRUE(Eventually([&] { return !envoy_->AccessLog().empty(); }));
  const std::string log = envoy_->AccessLog();
  EXPECT_THAT(log, HasSubstr(std::string(kFrontend) + " CONNECT " + kService + " 200 "));
  EXPECT_THAT(log, HasSubstr("k8s.namespace.name=shop"));
  EXPECT_THAT(log, HasSubstr("for=\"" + frontend_->ip() + ":0\";host=backend.shop.svc."));
  EXPECT_THAT(log, Not(HasSubstr("near")));
  // The far end sees the caller's certificate; that it comes from elsewhere is only said.
  EXPECT_TRUE(n2_->Counts(
      "istio_tcp_connections_closed_total",
      {std::string("source_principal=\"") + kFrontend, "source_workload=\"unknown\"",
       "source_workload_namespace=\"shop\"", "connection_security_policy=\"mutual_tls\""},
      Ge(2)));
  EXPECT_TRUE(n2_->Counts("qanat_forwarded_network_ignored_total", {}, Ge(2)));
}

TEST_F(EnvoyGateway, TheFarEndIsNamed) {
  Run();
  EchoAndHalfClose();
  EXPECT_TRUE(n1_->Counts(
      "istio_tcp_connections_closed_total",
      {std::string("destination_principal=\"") + kBackend, "destination_workload=\"backend\"",
       "destination_cluster=\"Kubernetes\"", "destination_service_name=\"backend\""},
      Ge(2)));
}

TEST_F(EnvoyGateway, CallsShareTheInnerTunnels) {
  Run();
  Many(50);
  EXPECT_LE(Streams(), Program::kWorkers);
}

TEST_F(EnvoyGateway, BulkBothWays) {
  Run();
  BulkBothWays();
}

// Envoy carries bytes: that a connection broke is told inside of the inner tunnel.
TEST_F(EnvoyGateway, AResetOfEitherEndArrives) {
  Run();
  EXPECT_EQ(ServerResets(), "reset");
  EXPECT_EQ(ClientResets(), "reset");
}

TEST_F(EnvoyGateway, AnotherIdentityIsNotTheGateway) {
  Run(kFrontend, kSomebodyElse);
  auto server = Application(Server::Echo());
  EXPECT_TRUE(Eventually([&] {
    return Call().Next() == "reset" &&
           n1_->Metric("qanat_connections_refused_total", {"peer_identity_mismatch"}) >= 1;
  }));
  EXPECT_EQ(server->accepted(), 0);
}

TEST_F(EnvoyGateway, ItRefusesOurIdentity) {
  Run(kSomebodyElse);
  auto server = Application(Server::Echo());
  EXPECT_TRUE(Eventually([&] {
    return Call().Next() == "reset" &&
           envoy_->Stat("listener." + there_->ip() + "_15008.ssl.fail_verify_san") >= 1;
  }));
  EXPECT_EQ(server->accepted(), 0);
}

}  // namespace
}  // namespace qanat::interop
