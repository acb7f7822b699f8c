// SPDX-License-Identifier: Apache-2.0
// XDS_ON_DEMAND: the proxy knows what its connections have asked for, and nothing else.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "tests/integration/ztunnel/bed.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Contains;
using testing::Eq;
using testing::Ge;
using testing::HasSubstr;
using testing::Not;

class OnDemandTest : public Bed {
 protected:
  void SetUp() override {
    frontend = &AddPod(1);
    backend = &AddPod(2);
    outside = &AddPod(9, Capture::kNone);
    service = TestMesh::MakeService("backend", "10.96.0.10");
    Announce("frontend", *frontend, "n1");
    Announce("backend", *backend, "n2", [&](auto& w) { TestMesh::Join(w, service); });
    Put(service);
    for (int i = 0; i < 50; ++i) {  // nobody asks for these
      Put(TestMesh::MakePod("other-" + std::to_string(i), "10.95.0." + std::to_string(i), "n3"));
    }
    const auto on_demand = [](Config& config) {
      config.xds_on_demand = true;
      config.dns_capture = false;
    };
    n1 = &AddNode("n1", on_demand);
    n2 = &AddNode("n2", on_demand);
    ASSERT_EQ(n1->Enrol("frontend", *frontend), "");
    ASSERT_EQ(n2->Enrol("backend", *backend), "");
    ASSERT_EQ(n1->agent().SnapshotSent(), "");
    ASSERT_EQ(n2->agent().SnapshotSent(), "");
    echo = std::make_unique<Server>(backend->netns(), backend->At(8080), Server::Echo());
  }
  bool Talks(PodNet& from, const std::string& to) {
    Tcp tcp = ConnectFrom(from.netns(), to);
    return tcp.connected() && tcp.Send("x") && tcp.Read(1) == "x";
  }

  PodNet *frontend, *backend, *outside;
  TestMesh::Service service;
  Node *n1, *n2;
  std::unique_ptr<Server> echo;
};

TEST_F(OnDemandTest, ConnectionsWaitForWhatTheyNeed) {
  EXPECT_TRUE(Eventually([&] { return n1->Ready().find("ready\n") != std::string::npos; }));
  EXPECT_THAT(n1->Get("/config_dump"), Not(HasSubstr("Kubernetes//Pod/shop/backend")));
  // The very first one, by the service's address, is a tunnel to the right identity.
  EXPECT_TRUE(Talks(*frontend, "10.96.0.10:80"));
  EXPECT_TRUE(n2->Counts(
      "istio_tcp_connections_opened_total",
      {"reporter=\"destination\"", "sa/frontend", "mutual_tls", "source_workload=\"frontend\""},
      Eq(1)));
  EXPECT_THAT(control_plane_.Asked(), Contains("/10.96.0.10"));
  EXPECT_THAT(n1->Get("/config_dump"), HasSubstr("Kubernetes//Pod/shop/backend"));
  EXPECT_THAT(n1->Get("/config_dump"), Not(HasSubstr("other-1")));
  // What is known is not asked for again, though changes of it come.
  const size_t asked = control_plane_.Asked().size();
  EXPECT_TRUE(Talks(*frontend, backend->At(8080)));
  EXPECT_EQ(control_plane_.Asked().size(), asked);
  Announce("backend", *backend, "n2", [&](auto& w) {
    TestMesh::Join(w, service);
    w.set_canonical_revision("v2");
  });
  EXPECT_TRUE(Eventually([&] {
    return n1->Get("/config_dump").find("\"canonicalRevision\": \"v2\"") != std::string::npos;
  }));
}

TEST_F(OnDemandTest, WhatNobodyHasPassesOnceThatIsKnown) {
  Server there(outside->netns(), outside->At(7000), Server::Echo());
  EXPECT_TRUE(Talks(*frontend, outside->At(7000)));
  EXPECT_THAT(control_plane_.Asked(), Contains("/" + outside->ip()));
  EXPECT_TRUE(n1->Counts("qanat_xds_on_demand_absent", {}, Ge(1)));
  const size_t asked = control_plane_.Asked().size();
  EXPECT_TRUE(Talks(*frontend, outside->At(7000)));
  EXPECT_EQ(control_plane_.Asked().size(), asked);
  // It joins the mesh: told without being asked again, as the name is subscribed to.
  Announce("late", *outside, "n3");
  EXPECT_TRUE(Eventually([&] { return !Talks(*frontend, outside->At(7000)); }));  // no tunnel there
  // And leaves it: asked anew.
  control_plane_.Remove("Address", "Kubernetes//Pod/shop/late");
  EXPECT_TRUE(Eventually([&] { return Talks(*frontend, outside->At(7000)); }));
}

// Without an answer nothing is passed in plaintext that might belong to a workload.
TEST_F(OnDemandTest, NoAnswerIsARefusalAfterAWhile) {
  EXPECT_TRUE(Talks(*frontend, backend->At(8080)));
  control_plane_.SetSilent(true);
  Server there(outside->netns(), outside->At(7000), Server::Echo());
  Tcp tcp = ConnectFrom(frontend->netns(), outside->At(7000));
  ASSERT_TRUE(tcp.connected());
  tcp.Send("x");
  EXPECT_EQ(tcp.Next(2000), "nothing");
  EXPECT_EQ(tcp.Next(), "reset");
  EXPECT_EQ(there.accepted(), 0);
  EXPECT_TRUE(
      n1->Counts("qanat_connections_refused_total", {"source", "destination_unknown"}, Eq(1)));
  EXPECT_TRUE(Talks(*frontend, backend->At(8080)));  // what is known goes on
  // One that waits gets through when the answer comes after all.
  Tcp waiting = ConnectFrom(frontend->netns(), outside->At(7001));
  Server late(outside->netns(), outside->At(7001), Server::Echo());
  waiting.Send("x");
  EXPECT_EQ(waiting.Next(300), "nothing");
  control_plane_.SetSilent(false);
  control_plane_.SetAway(true);  // a new stream asks for all names anew
  control_plane_.SetAway(false);
  EXPECT_EQ(waiting.Next(), "data");
}

// The waypoint of a receiver's own service is asked for before anybody gets past it.
TEST_F(OnDemandTest, AWaypointIsAskedFor) {
  auto waypoint = TestMesh::MakeService("waypoint", "10.96.0.99");
  Put(waypoint);
  service = TestMesh::MakeService("backend", "10.96.0.10");
  *service.mutable_waypoint() = TestMesh::GatewayOf(waypoint);
  Put(service);
  Tcp tcp = ConnectFrom(frontend->netns(), "10.96.0.10:80");
  tcp.Send("x");
  EXPECT_EQ(tcp.Next(), "reset");
  EXPECT_TRUE(
      n1->Counts("qanat_connections_refused_total", {"source", "waypoint_unavailable"}, Eq(1)));
  EXPECT_THAT(control_plane_.Asked(), Contains("shop/waypoint.shop.svc.cluster.local"));
}

}  // namespace
}  // namespace qanat::ztunnel::test
