// SPDX-License-Identifier: Apache-2.0
// An endpoint that cannot serve is followed by another one, before the first byte; what a policy
// refused is not tried elsewhere; who keeps failing is left out.
#include <gmock/gmock.h>

#include "tests/integration/ztunnel/bed.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Eq;
using testing::Ge;

class RetryTest : public Bed {
 protected:
  // frontend on n1; backends "good" and "bad" of one service on `node`. Only good listens.
  void Make(const std::string& node) {
    frontend = &AddPod(1);
    good = &AddPod(2);
    bad = &AddPod(3);
    service = TestMesh::MakeService("backend", "10.96.0.10");
    Put(service);
    const auto join = [&](TestMesh::Workload& w) { TestMesh::Join(w, service); };
    Announce("frontend", *frontend, "n1");
    Announce("good", *good, node, join);
    bad_workload = Announce("bad", *bad, node, join);
    n1 = &AddNode("n1");
    ASSERT_EQ(n1->Enrol("frontend", *frontend), "");
    far = node == "n1" ? n1 : &AddNode(node);
    ASSERT_EQ(far->Enrol("good", *good), "");
    ASSERT_EQ(far->Enrol("bad", *bad), "");
    ASSERT_EQ(n1->agent().SnapshotSent(), "");
    if (far != n1) {
      ASSERT_EQ(far->agent().SnapshotSent(), "");
    }
    server = std::make_unique<Server>(good->netns(), good->At(8080), Server::Echo());
  }
  bool Talks() {
    Tcp tcp = ConnectFrom(frontend->netns(), "10.96.0.10:80");
    return tcp.connected() && tcp.Send("x") && tcp.Read(1) == "x";
  }

  PodNet *frontend = nullptr, *good = nullptr, *bad = nullptr;
  Node *n1 = nullptr, *far = nullptr;
  TestMesh::Service service;
  TestMesh::Workload bad_workload;
  std::unique_ptr<Server> server;
};

TEST_F(RetryTest, AnotherEndpointServesWhatOneCannot) {
  Make("n2");
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(Talks()) << "call " << i;
  EXPECT_EQ(server->accepted(), 60);
  EXPECT_THAT(n1->Metric("qanat_connect_retries_total", {"refused_by_peer"}), Ge(5));
  // Nothing is refused from the client's point of view, and the failing one is left out, which each
  // of the workers learns on its own.
  EXPECT_EQ(n1->Metric("qanat_connections_refused_total", {"reporter=\"source\""}), 0);
  EXPECT_THAT(n1->Metric("qanat_endpoint_ejections_total"), Ge(1));
  const double retries = n1->Metric("qanat_connect_retries_total");
  EXPECT_LE(retries, 2 * 5);  // five per worker, then it is not asked any more
}

TEST_F(RetryTest, InOnePassToo) {
  Make("n1");
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Talks()) << "call " << i;
  EXPECT_THAT(n1->Metric("qanat_connect_retries_total", {"connect_failed"}), Ge(1));
  EXPECT_EQ(n1->Metric("qanat_connections_refused_total"), 0);
}

// The same connection may end up over a tunnel after a failed pass within the node, or the other
// way round: nothing of the first try is left in its report.
TEST_F(RetryTest, FromOnePassToATunnel) {
  Make("n2");
  auto moved = bad_workload;
  moved.set_node("n1");
  Put(moved);
  ASSERT_EQ(n1->Enrol("bad", *bad), "");
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Talks()) << "call " << i;
  EXPECT_THAT(n1->Metric("qanat_connect_retries_total", {"connect_failed"}), Ge(1));
  EXPECT_TRUE(n1->Counts("istio_tcp_connections_opened_total",
                         {"reporter=\"source\"", "destination_workload=\"good\"", "mutual_tls"},
                         Eq(20)));
  EXPECT_EQ(n1->Metric("istio_tcp_connections_opened_total", {"destination_workload=\"bad\""}), 0);
}

TEST_F(RetryTest, AllFailIsOneRefusal) {
  Make("n2");
  server.reset();
  Tcp tcp = ConnectFrom(frontend->netns(), "10.96.0.10:80");
  ASSERT_TRUE(tcp.connected());
  EXPECT_EQ(tcp.Next(), "reset");
  EXPECT_TRUE(n1->Counts("qanat_connections_refused_total", {"source", "refused_by_peer"}, Eq(1)));
  EXPECT_EQ(n1->Metric("qanat_connect_retries_total"), 1);
}

TEST_F(RetryTest, ADenialIsNotTriedElsewhere) {
  Make("n2");
  auto policy = TestMesh::MakePolicy("deny", istio::security::DENY);
  policy.add_rules()->add_clauses()->add_matches()->add_principals()->set_exact(
      "cluster.local/ns/shop/sa/frontend");
  Put(policy);
  EXPECT_TRUE(Eventually([&] { return !Talks(); }));
  const double before = n1->Metric("qanat_connect_retries_total");
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(Talks());
  EXPECT_EQ(n1->Metric("qanat_connect_retries_total"), before);
}

// Who calls a closed port of a pod by its address says nothing of the service.
TEST_F(RetryTest, AClosedPortElsewhereEjectsNobody) {
  Make("n2");
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(ConnectFrom(frontend->netns(), good->At(9999)).Next(), "reset");
  }
  EXPECT_EQ(n1->Metric("qanat_endpoint_ejections_total"), 0);
  EXPECT_EQ(n1->Metric("qanat_connect_retries_total"), 0);
}

// An endpoint at an address where nobody answers costs its share of the time, not all of it.
TEST_F(RetryTest, SilenceIsFollowedByAnotherTry) {
  Make("n2");
  bad_workload.clear_addresses();
  bad_workload.add_addresses(IpBytes("10.93.0.77"));
  // Nobody answers there, and no failed search for a neighbour says so after some seconds either.
  const std::string rule =
      "ip netns exec " + frontend->name() + " nft insert rule inet q out ip daddr 10.93.0.77 drop";
  ASSERT_EQ(std::system(rule.c_str()), 0) << rule;
  Put(bad_workload);
  // Two of them: which comes first is chance.
  double retries = 0;
  for (int i = 0; i < 20 && retries == 0; ++i) {
    ASSERT_TRUE(Talks()) << "call " << i;
    retries = n1->Metric("qanat_connect_retries_total", {"connect_timeout"});
  }
  EXPECT_GE(retries, 1);
  EXPECT_EQ(n1->Metric("qanat_connections_refused_total", {"reporter=\"source\""}), 0);
}

// What keeps one pod from an endpoint (its own routes, filters, certificate) leaves nobody else
// out.
TEST_F(RetryTest, OnePodsTroubleIsItsOwn) {
  Make("n2");
  Server also(bad->netns(), bad->At(8080), Server::Echo());
  PodNet& other = AddPod(4);
  Announce("other", other, "n1");
  ASSERT_EQ(n1->Enrol("other", other), "");
  const std::string rule = "ip netns exec " + frontend->name() +
                           " nft insert rule inet q out ip daddr " + bad->ip() +
                           " tcp dport 15008 reject with tcp reset";
  ASSERT_EQ(std::system(rule.c_str()), 0) << rule;
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(Talks()) << "call " << i;
  EXPECT_EQ(also.accepted(), 0) << "the rule has no effect, the test says nothing";
  EXPECT_THAT(n1->Metric("qanat_endpoint_ejections_total"), Ge(1));
  const int before = server->accepted();
  for (int i = 0; i < 40; ++i) {
    Tcp tcp = ConnectFrom(other.netns(), "10.96.0.10:80");
    ASSERT_TRUE(tcp.connected() && tcp.Send("x") && tcp.Read(1) == "x") << "call " << i;
  }
  // Half of them, by chance: in less than one of a million runs fewer than 5.
  EXPECT_GE(also.accepted(), 5);
  EXPECT_GE(server->accepted() - before, 5);
}

}  // namespace
}  // namespace qanat::ztunnel::test
