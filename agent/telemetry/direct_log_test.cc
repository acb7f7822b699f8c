// SPDX-License-Identifier: Apache-2.0
// Who the ends of a record are, and what is told of a direct connection.
#include "agent/telemetry/direct_log.h"

#include <gtest/gtest.h>
#include <netinet/tcp.h>

#include <cerrno>

#include "bpf/user/node_maps.h"
#include "common/route/mesh_for_test.h"

namespace qanat::agent::telemetry {
namespace {

using model::Reason;
using route::At;
using route::Ip;
using route::TestMesh;

class DirectLogTest : public ::testing::Test {
 protected:
  DirectLogTest() {
    mesh_.Put(TestMesh::MakePod("frontend", "10.91.1.5"))
        .Put(TestMesh::MakePod("backend", "10.91.1.7"));
    service_ = TestMesh::MakeService("backend", "10.96.0.10");
    mesh_.Put(service_);
    frontend_ = PodOf("frontend", "10.91.1.5");
    backend_ = PodOf("backend", "10.91.1.7");
    record_.tuple = bpf::ToKernel(At("10.91.1.5:40000"), At("10.91.1.7:8080"));
    record_.path = QANAT_PATH_DIRECT;
    record_.flags = QANAT_RECORD_ESTABLISHED;
    record_.last_state = TCP_FIN_WAIT2;
    record_.bytes_sent = 10;
    record_.bytes_received = 20;
    record_.end_ns = 7'500'000;
  }
  static Pod PodOf(const std::string& name, const std::string& ip) {
    Pod pod;
    pod.name = pod.service_account = name;
    pod.ns = "shop";
    pod.ips = {Ip(ip)};
    return pod;
  }
  Ends Direct() { return EndsOf(record_, &frontend_, &backend_, mesh_.Snapshot(), ""); }
  void AsServer() {
    record_.flags |= QANAT_RECORD_SERVER;
    record_.last_state = TCP_LAST_ACK;
    std::swap(record_.bytes_sent, record_.bytes_received);
  }
  std::string Line(const Ends& ends) {
    const Figures figures = FiguresOf(record_, 4000);
    return AccessLine(FlowOf(record_, ends), FlowEndOf(record_, figures), log::Format::kText, "T");
  }

  TestMesh mesh_;
  TestMesh::Service service_;
  Pod frontend_, backend_;
  qanat_record record_{};
};

TEST_F(DirectLogTest, TheLinesAreThoseOfTheProxyInOnePass) {
  const std::string ends =
      "src.addr=10.91.1.5:40000 src.workload=\"frontend\" src.namespace=\"shop\" "
      "src.identity=\"spiffe://cluster.local/ns/shop/sa/frontend\" src.cluster=\"Kubernetes\" "
      "dst.addr=10.91.1.7:8080 dst.workload=\"backend\" dst.namespace=\"shop\" "
      "dst.identity=\"spiffe://cluster.local/ns/shop/sa/backend\" dst.cluster=\"Kubernetes\" ";
  EXPECT_EQ(Line(Direct()), "T\tinfo\taccess\tconnection complete\t" + ends +
                                "direction=\"outbound\" bytes_sent=10 bytes_recv=20 "
                                "duration=\"7ms\"");
  AsServer();
  EXPECT_EQ(Line(EndsOf(record_, &backend_, &frontend_, mesh_.Snapshot(), "")),
            "T\tinfo\taccess\tconnection complete\t" + ends +
                "direction=\"inbound\" bytes_sent=20 bytes_recv=10 duration=\"7ms\"");
}

TEST_F(DirectLogTest, ABrokenOneSaysWhy) {
  record_.error = ECONNREFUSED;
  record_.last_state = TCP_SYN_SENT;
  record_.flags = 0;
  const std::string line = Line(Direct());
  EXPECT_NE(line.find("error=\"connection refused\""), std::string::npos) << line;
  EXPECT_NE(line.find("reason=\"connect_failed\""), std::string::npos) << line;
}

TEST_F(DirectLogTest, IsCountedOnceByEachReporter) {
  metrics::Registry registry;
  DirectLog log(registry);
  const Ends ends = Direct();
  log.Tell(record_, FiguresOf(record_, 4000), ends);
  const auto labels = FlowLabels(FlowOf(record_, ends), Reason::kNone);
  qanat::telemetry::TcpMetrics counted(registry);
  EXPECT_EQ(counted.opened.Value(labels), 1u);
  EXPECT_EQ(counted.closed.Value(labels), 1u);
  EXPECT_EQ(counted.received.Value(labels), 10u) << "from the client";
  EXPECT_EQ(counted.sent.Value(labels), 20u);
  AsServer();
  log.Tell(record_, FiguresOf(record_, 4000), ends);
  const auto servers = FlowLabels(FlowOf(record_, ends), Reason::kNone);
  EXPECT_NE(servers, labels);
  EXPECT_EQ(counted.opened.Value(servers), 1u);
  EXPECT_EQ(counted.received.Value(servers), 10u);
  EXPECT_EQ(counted.sent.Value(servers), 20u);
  EXPECT_EQ(counted.opened.Value(labels), 1u);
}

TEST_F(DirectLogTest, ARefusedOneIsFailedAtBothAndNeverOpened) {
  metrics::Registry registry;
  DirectLog log(registry);
  record_.error = ECONNREFUSED;
  record_.flags = 0;
  const Ends ends = Direct();
  log.Tell(record_, FiguresOf(record_, 4000), ends);
  auto flow = FlowOf(record_, ends);
  qanat::telemetry::TcpMetrics counted(registry);
  for (auto reporter :
       {qanat::telemetry::Reporter::kSource, qanat::telemetry::Reporter::kDestination}) {
    flow.reporter = reporter;
    EXPECT_EQ(counted.failed.Value(FlowLabels(flow, Reason::kConnectFailed)), 1u);
    EXPECT_EQ(counted.opened.Value(FlowLabels(flow, Reason::kNone)), 0u);
  }
}

TEST_F(DirectLogTest, TheFarEndIsWhoHasItsAddressOrAnswersForTheService) {
  record_.path = QANAT_PATH_CAPTURED;
  Ends ends = EndsOf(record_, &frontend_, nullptr, mesh_.Snapshot(), "");
  EXPECT_EQ(ends.source_principal, "spiffe://cluster.local/ns/shop/sa/frontend");
  EXPECT_EQ(ends.destination_principal, "spiffe://cluster.local/ns/shop/sa/backend");
  EXPECT_FALSE(ends.service);

  record_.tuple.dst = bpf::ToKernel(Ip("10.96.0.10"));
  auto backend = TestMesh::MakePod("backend", "10.91.1.7");
  TestMesh::Join(backend, service_);
  mesh_.Put(backend);
  ends = EndsOf(record_, &frontend_, nullptr, mesh_.Snapshot(), "");
  ASSERT_TRUE(ends.service);
  EXPECT_EQ(ends.service->hostname, "backend.shop.svc.cluster.local");
  EXPECT_EQ(ends.destination_principal, "spiffe://cluster.local/ns/shop/sa/backend");
  auto other = TestMesh::MakePod("other", "10.91.1.8");
  TestMesh::Join(other, service_);
  mesh_.Put(other);
  ends = EndsOf(record_, &frontend_, nullptr, mesh_.Snapshot(), "");
  EXPECT_EQ(ends.destination_principal, "") << "either";

  record_.tuple.dst = bpf::ToKernel(Ip("192.0.2.1"));
  ends = EndsOf(record_, &frontend_, nullptr, mesh_.Snapshot(), "");
  EXPECT_EQ(ends.destination_principal, "");
}

TEST_F(DirectLogTest, APodThatTheMeshDoesNotKnowHasItsOwnName) {
  Ends ends = EndsOf(record_, &frontend_, &backend_, nullptr, "");
  EXPECT_EQ(ends.source_principal, "ns/shop/sa/frontend");
  EXPECT_FALSE(ends.source_identity);
  // Its address is another's by now.
  frontend_.name = "frontend-2";
  EXPECT_EQ(Direct().source_principal, "ns/shop/sa/frontend");
  EXPECT_FALSE(Direct().source);
}

}  // namespace
}  // namespace qanat::agent::telemetry
