// SPDX-License-Identifier: Apache-2.0
// Destinations, and waypoints, that are known by name only (ServiceEntry with resolution DNS):
// resolved by the client pod's own name servers when it connects.
#include <algorithm>

#include "tests/integration/dns/fixture.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Ge;
using testing::HasSubstr;

class DestinationTest : public DnsBed {
 protected:
  void SetUp() override {
    Make({}, true, Capture::kTproxy);
    service_ = TestMesh::MakeService("db", "10.96.0.20");
    Put(service_);
  }
  // An endpoint outside the mesh of which the mesh knows a name.
  void Entry(const std::string& host) {
    auto w = TestMesh::MakePod(host, "");
    w.set_uid("Kubernetes/networking.istio.io/ServiceEntry/shop/db/" + host);
    w.set_hostname(host);
    w.set_tunnel_protocol(istio::workload::NONE);
    TestMesh::Join(w, service_);
    Put(w);
  }
  std::string Talk() {
    Tcp tcp = ConnectFrom(pod->netns(), "10.96.0.20:80");
    if (!tcp.connected()) return "not connected";
    tcp.Send("x");
    return tcp.Next();
  }

  TestMesh::Service service_;
};

TEST_F(DestinationTest, ANameIsResolvedWhenSomebodyConnects) {
  Server server(stranger->netns(), stranger->At(8080), Server::Echo());
  Entry("at-10-93-0-2.test");
  ASSERT_TRUE(Eventually([&] { return Talk() == "data"; })) << server.accepted();
  EXPECT_THAT(this->server->Log(), HasSubstr("udp at-10-93-0-2.test 1"));
  for (int i = 0; i < 20; ++i) ASSERT_EQ(Talk(), "data") << "call " << i;
  const std::string asked = this->server->Log();
  EXPECT_LE(std::count(asked.begin(), asked.end(), '\n'), 1 + 2) << "once a worker: " << asked;
  EXPECT_THAT(node->Metric("istio_on_demand_dns_total",
                           {"hostname=\"at-10-93-0-2.test\"", "source_workload=\"frontend\""}),
              Ge(2));
  EXPECT_GE(node->Metric("qanat_connection_setup_seconds_count",
                         {"phase=\"dns\"", "reporter=\"source\""}),
            1);
}

TEST_F(DestinationTest, ANameWithoutAnAddressIsRefusedAndSaid) {
  Entry("nx.test");
  ASSERT_TRUE(Eventually([&] {
    return Talk() == "reset" &&
           node->Metric("qanat_connections_refused_total", {"dns_failure"}) > 0;
  })) << node->Metrics();
}

TEST_F(DestinationTest, AnotherEndpointServesWhereANameHasNoAddress) {
  Server server(stranger->netns(), stranger->At(8080), Server::Echo());
  Entry("nx.test");
  Entry("at-10-93-0-2.test");
  ASSERT_TRUE(Eventually([&] { return Talk() == "data"; }));
  for (int i = 0; i < 20; ++i) ASSERT_EQ(Talk(), "data") << "call " << i;
  EXPECT_TRUE(node->Counts("qanat_connect_retries_total", {"dns_failure"}, Ge(1)));
}

// A tunnel to what the name says, with the waypoint's identity and the service's address; there an
// application tunnel without a header brings it to the port that it has.
TEST_F(DestinationTest, AWaypointThatIsKnownByNameOnly) {
  PodNet& there = AddPod(6);
  Announce("w", there, "n2", [](TestMesh::Workload& w) {
    w.mutable_application_tunnel()->set_protocol(istio::workload::ApplicationTunnel::NONE);
    w.mutable_application_tunnel()->set_port(15088);
  });
  Node& n2 = AddNode("n2");
  ASSERT_EQ(n2.Enrol("w", there), "");
  ASSERT_EQ(n2.agent().SnapshotSent(), "");
  auto gateway = TestMesh::MakeService("gateway", "");
  auto by_name = TestMesh::MakePod("by-name", "");
  by_name.set_uid("Kubernetes/networking.istio.io/ServiceEntry/shop/gateway/by-name");
  by_name.set_service_account("w");
  std::string host = "at-" + there.ip() + ".test";
  std::replace(host.begin(), host.end() - 5, '.', '-');
  by_name.set_hostname(host);
  TestMesh::Join(by_name, gateway);
  Put(gateway);
  Put(by_name);
  *service_.mutable_waypoint() = TestMesh::GatewayOf(gateway);
  Put(service_);
  Server app(there.netns(), there.At(15088), Server::Echo());
  ASSERT_TRUE(Eventually([&] { return Talk() == "data"; })) << n2.Metrics();
  EXPECT_EQ(app.accepted(), 1);
  EXPECT_TRUE(n2.Counts("istio_tcp_connections_opened_total",
                        {"reporter=\"destination\"", "sa/frontend", "mutual_tls"}, Ge(1)));
  EXPECT_THAT(this->server->Log(), HasSubstr("udp " + host + " 1"));
}

}  // namespace
}  // namespace qanat::ztunnel::test
