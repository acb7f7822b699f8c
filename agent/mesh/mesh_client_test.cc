// SPDX-License-Identifier: Apache-2.0
#include "agent/mesh/mesh_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "agent/mesh/mesh_pages.h"
#include "common/grpc/test_server.h"
#include "common/route/mesh_for_test.h"
#include "common/tls/test_certs.h"
#include "common/xds/delta_client.h"
#include "envoy/service/discovery/v3/discovery.pb.h"

namespace qanat::agent {
namespace {

using envoy::service::discovery::v3::DeltaDiscoveryRequest;
using envoy::service::discovery::v3::DeltaDiscoveryResponse;
using grpc::test::TestServer;
using route::TestMesh;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

class MeshClientTest : public ::testing::Test {
 protected:
  MeshClientTest() {
    char path[] = "/tmp/qanat-mesh-XXXXXX";
    folder_ = mkdtemp(path);
    Write("root.pem", ca_.authority.certificate.ToPem());
    Write("token", "the-agents-token\n");
    Serve();
    options_.control_plane.xds_address = server_->endpoint();
    options_.control_plane.xds_root_ca = folder_ + "/root.pem";
    options_.control_plane.alt_xds_hostname = "controlplane.test";
    options_.control_plane.auth_token = folder_ + "/token";
    options_.node.pod_name = "qanat-agent-x";
    options_.node.pod_namespace = "qanat-system";
    options_.node.node_name = "node-a";
    options_.environment = {"ISTIO_META_REVISION=r"};
    holder_.Listen([this](const state::SnapshotPtr&) { ++told_; });
  }
  ~MeshClientTest() override {
    client_.reset();
    for (const char* name : {"/root.pem", "/token"}) ::unlink((folder_ + name).c_str());
    ::rmdir(folder_.c_str());
  }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ + "/" + name) << text;
  }
  void Serve(net::SocketAddress at = *net::SocketAddress::Parse("127.0.0.1:0")) {
    stream_ = nullptr;
    requests_.clear();
    server_ = std::make_unique<TestServer>(
        loop_, ca_.Context(ca_.Issue(tls::RequestNames{{}, {"controlplane.test"}, {}})), at);
    server_->on_call = [this](TestServer::Call& call) {
      stream_ = &call;
      requests_.clear();
      call.on_message = [this](const std::string& message) {
        DeltaDiscoveryRequest request;
        ASSERT_TRUE(request.ParseFromString(message));
        requests_.push_back(std::move(request));
      };
      call.on_closed = [this, &call] {
        if (stream_ == &call) stream_ = nullptr;
      };
    };
  }
  void Start(std::function<bool()> may_acknowledge = {}) {
    client_ = std::make_unique<MeshClient>(loop_, options_, holder_, registry_, milliseconds(20));
    client_->SetMayAcknowledge(std::move(may_acknowledge));
    client_->Start();
  }
  void RunUntil(const std::function<bool()>& done) {
    const auto end = event::Clock::now() + std::chrono::seconds(60);
    while (!done() && event::Clock::now() < end) loop_.RunOnce(milliseconds(10));
    ASSERT_TRUE(done()) << "timed out; last error: " << client_->state().last_error;
  }
  void RunFor(milliseconds time) {
    const auto end = event::Clock::now() + time;
    for (int i = 0; i < 20 || event::Clock::now() < end; ++i) loop_.RunOnce(milliseconds(2));
  }
  void Respond(std::string_view type, const std::map<std::string, std::string>& resources) {
    DeltaDiscoveryResponse response;
    response.set_type_url(std::string(type));
    response.set_nonce(std::to_string(++nonce_));
    for (const auto& [name, bytes] : resources) {
      auto* resource = response.add_resources();
      resource->set_name(name);
      resource->set_version("v1");
      resource->mutable_resource()->set_type_url(std::string(type));
      resource->mutable_resource()->set_value(bytes);
    }
    ASSERT_NE(stream_, nullptr);
    stream_->Send(response.SerializeAsString());
  }
  std::map<std::string, std::string> Pods(const std::vector<std::string>& names) {
    std::map<std::string, std::string> out;
    for (const std::string& name : names) {
      const auto pod = TestMesh::MakePod(name, "10.91.1.5");
      out[pod.uid()] = TestMesh::Wire(pod);
    }
    return out;
  }
  void TellAll() {
    RunUntil([&] { return requests_.size() == 2; });
    Respond(xds::kAddressType, Pods({"web"}));
    Respond(xds::kAuthorizationType, {});
    RunUntil([&] { return client_->state().current; });
  }

  event::EventLoop loop_;
  tls::testing::TestCa ca_ = tls::testing::TestCa::Make();
  std::string folder_;
  MeshOptions options_;
  SnapshotHolder holder_;
  metrics::Registry registry_;
  std::unique_ptr<TestServer> server_;
  TestServer::Call* stream_ = nullptr;
  std::vector<DeltaDiscoveryRequest> requests_;
  std::unique_ptr<MeshClient> client_;
  int nonce_ = 0, told_ = 0;
};

TEST_F(MeshClientTest, AsksAsANodeProxyWithItsOwnToken) {
  Start();
  RunUntil([&] { return requests_.size() == 2; });
  EXPECT_EQ(stream_->head.headers.Get("authorization"), "Bearer the-agents-token");
  EXPECT_EQ(requests_[0].type_url(), xds::kAddressType);
  EXPECT_EQ(requests_[1].type_url(), xds::kAuthorizationType);
  const auto& node = requests_[0].node();
  EXPECT_EQ(node.id(), "ztunnel~1.1.1.1~qanat-agent-x.qanat-system~qanat-system.svc.cluster.local");
  EXPECT_EQ(node.metadata().fields().at("NODE_NAME").string_value(), "node-a");
  EXPECT_EQ(node.metadata().fields().at("QANAT_PROGRAM").string_value(), "agent");
  EXPECT_EQ(node.metadata().fields().at("REVISION").string_value(), "r");
}

TEST_F(MeshClientTest, HalfOfAMeshIsNotShown) {
  Start();
  RunUntil([&] { return requests_.size() == 2; });
  Respond(xds::kAddressType, Pods({"web"}));
  RunUntil([&] { return requests_.size() == 3; });
  EXPECT_TRUE(client_->state().connected);
  EXPECT_FALSE(client_->state().current);
  EXPECT_EQ(holder_.snapshot(), nullptr);
  EXPECT_FALSE(client_->age());
  Respond(xds::kAuthorizationType, {});
  RunUntil([&] { return holder_.snapshot() != nullptr; });
  EXPECT_NE(holder_.snapshot()->WorkloadByUid("Kubernetes//Pod/shop/web"), nullptr);
  EXPECT_EQ(told_, 1);
  RunUntil([&] { return requests_.size() == 4; });
  EXPECT_FALSE(requests_[3].has_error_detail());
  // What comes later is a snapshot of its own: the old one stays for who has it.
  const state::SnapshotPtr before = holder_.snapshot();
  Respond(xds::kAddressType, Pods({"db"}));
  RunUntil([&] { return told_ == 2; });
  EXPECT_EQ(before->workload_count(), 1u);
  EXPECT_EQ(holder_.snapshot()->workload_count(), 2u);
}

TEST_F(MeshClientTest, WhatIsNotInForceIsNotAcknowledged) {
  bool in_force = true;
  // What is said of the first snapshot counts for the response that completed it.
  holder_.Listen([&](const state::SnapshotPtr&) { in_force = false; });
  Start([&] { return in_force; });
  TellAll();
  RunFor(milliseconds(50));
  EXPECT_EQ(requests_.size(), 3u) << "the first of two responses was acknowledged";
  Respond(xds::kAddressType, Pods({"db"}));
  RunUntil([&] { return holder_.snapshot()->workload_count() == 2; });
  client_->Acknowledge();
  RunFor(milliseconds(50));
  EXPECT_EQ(requests_.size(), 3u);
  in_force = true;
  client_->Acknowledge();
  RunUntil([&] { return requests_.size() == 5; });
  EXPECT_EQ(requests_[3].response_nonce(), "2");
  EXPECT_EQ(requests_[4].response_nonce(), "3");
}

TEST_F(MeshClientTest, WhatIsNotUnderstoodIsRefusedAndTheRestTaken) {
  Start();
  TellAll();
  auto pods = Pods({"good"});
  pods["bad"] = "not a message";
  Respond(xds::kAddressType, pods);
  RunUntil([&] { return requests_.size() == 5; });
  EXPECT_THAT(requests_.back().error_detail().message(), HasSubstr("bad"));
  EXPECT_EQ(holder_.snapshot()->workload_count(), 2u);
  EXPECT_THAT(registry_.Render(), HasSubstr("qanat_xds_rejects_total"));
}

TEST_F(MeshClientTest, AgeGrowsWhileTheServerIsSilentAndEndsWithTheStream) {
  Start();
  TellAll();
  RunUntil([&] { return client_->age().has_value(); });
  // Both ends live on this loop: what the process does not do, the server does not either.
  ::usleep(300'000);
  EXPECT_GE(*client_->age(), milliseconds(300));
  RunUntil([&] { return client_->age().value_or(event::Duration::max()) < milliseconds(300); });
  server_.reset();
  RunUntil([&] { return !client_->state().connected; });
  EXPECT_FALSE(client_->age());
  ASSERT_NE(holder_.snapshot(), nullptr) << "what is known stays";
  EXPECT_EQ(holder_.snapshot()->workload_count(), 1u);
}

// A stock istiod lets gRPC's server end the stream of who pings more often than each 15 s.
TEST_F(MeshClientTest, AControlPlaneThatAllowsFewPingsKeepsOneStream) {
  constexpr milliseconds kLease{5000};
  server_->least_ping = milliseconds(15000);
  int accepted = -1;
  server_->on_accept = [&](int fd) { accepted = fd; };
  Start();
  RunUntil([&] { return server_->calls.size() == 2; });
  TellAll();
  const TestServer::Call* const stream = stream_;
  auto oldest = event::Duration::zero();
  const auto end = event::Clock::now() + milliseconds(4000);
  RunUntil([&] {
    oldest = std::max(oldest, client_->age().value_or(kLease));
    return event::Clock::now() > end;
  });
  EXPECT_LT(oldest, milliseconds(3000)) << "probes go out each second";
  EXPECT_EQ(server_->accepted, 2);
  EXPECT_EQ(stream_, stream);
  EXPECT_EQ(client_->state().ping, milliseconds(20000));
  // Its machine is gone: the kernel drops what comes for it, and answers nothing.
  sock_filter drop = {BPF_RET | BPF_K, 0, 0, 0};
  const sock_fprog program = {1, &drop};
  ASSERT_EQ(setsockopt(accepted, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), 0);
  RunUntil([&] { return client_->age() > kLease; });
  EXPECT_TRUE(client_->state().connected);
  // The same limit as without an answer to a PING.
  RunUntil([&] { return !client_->state().connected; });
  EXPECT_FALSE(client_->age());
}

TEST_F(MeshClientTest, AfterItCameBackItIsCurrentWhenAllWasTold) {
  Start();
  TellAll();
  const net::SocketAddress address = server_->address();
  server_.reset();
  RunUntil([&] { return !client_->state().connected; });
  Serve(address);
  RunUntil([&] { return requests_.size() == 2; });
  EXPECT_EQ(requests_[0].initial_resource_versions().size(), 1u);
  Respond(xds::kAddressType, Pods({"db"}));
  RunUntil([&] { return holder_.snapshot()->workload_count() == 2; });
  RunFor(milliseconds(100));
  EXPECT_TRUE(client_->state().connected);
  EXPECT_FALSE(client_->age()) << "policies may have changed meanwhile";
  Respond(xds::kAuthorizationType, {});
  RunUntil([&] { return client_->age().has_value(); });
}

TEST_F(MeshClientTest, AServerThatItDoesNotTrustIsNotAsked) {
  Write("root.pem", tls::testing::TestCa::Make().authority.certificate.ToPem());
  Start();
  RunUntil([&] { return !client_->state().last_error.empty(); });
  EXPECT_THAT(client_->state().last_error, HasSubstr("TLS handshake"));
  EXPECT_TRUE(server_->calls.empty());
  // The root is read again for each connection: one that comes later is found.
  Write("root.pem", ca_.authority.certificate.ToPem());
  TellAll();
}

TEST_F(MeshClientTest, Pages) {
  admin::Server admin(loop_);
  Start();
  TellAll();
  AddMeshRoutes(admin, client_.get(), holder_);
  AddMeshMetrics(registry_, *client_);
  RunUntil([&] { return client_->age().has_value(); });
  const auto text = registry_.Render();
  EXPECT_THAT(text, HasSubstr("qanat_xds_current 1"));
  EXPECT_THAT(text, HasSubstr("qanat_xds_age_seconds 0"));
  EXPECT_THAT(text, HasSubstr("qanat_xds_resources{type=\"address\"} 1"));
  const auto json = nlohmann::json::parse(MeshPage(client_.get(), holder_));
  EXPECT_EQ(json["current"], true);
  EXPECT_EQ(json["snapshot"]["workloads"], 1);
  EXPECT_TRUE(json["ageSeconds"].is_number());
  EXPECT_EQ(json["pingSeconds"], 0.02);
  const auto off = nlohmann::json::parse(MeshPage(nullptr, SnapshotHolder()));
  EXPECT_EQ(off["enabled"], false);
}

}  // namespace
}  // namespace qanat::agent
