// SPDX-License-Identifier: Apache-2.0
// What is refused, with which reason, and what happens to live connections when the mesh changes.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/integration/ztunnel/bed.h"

namespace qanat::ztunnel::test {
namespace {

namespace sec = istio::security;
using testing::Eq;
using testing::Ge;
using testing::HasSubstr;

class PolicyTest : public Bed {
 protected:
  // frontend and local on n1, backend on n2; everything listens on 7000 and 8080.
  void SetUp() override {
    frontend = &AddPod(1);
    local = &AddPod(3);
    backend = &AddPod(2);
    outside = &AddPod(9, Capture::kNone);
    Announce("frontend", *frontend, "n1");
    Announce("local", *local, "n1");
    Announce("backend", *backend, "n2");
    n1 = &AddNode("n1");
    n2 = &AddNode("n2");
    ASSERT_EQ(n1->Enrol("frontend", *frontend), "");
    ASSERT_EQ(n1->Enrol("local", *local), "");
    ASSERT_EQ(n2->Enrol("backend", *backend), "");
    ASSERT_EQ(n1->agent().SnapshotSent(), "");
    ASSERT_EQ(n2->agent().SnapshotSent(), "");
    for (PodNet* pod : {backend, local}) {
      for (int port : {7000, 8080}) {
        servers.push_back(std::make_unique<Server>(pod->netns(), pod->At(port), Server::Echo()));
      }
    }
  }
  static bool Talks(Tcp& tcp) { return tcp.connected() && tcp.Send("x") && tcp.Read(1) == "x"; }
  bool Talks(const PodNet& from, const std::string& to) {
    Tcp tcp = ConnectFrom(from.netns(), to);
    return Talks(tcp);
  }
  bool EventuallyTalks(const PodNet& from, const std::string& to, bool wanted) {
    // The first may be one that the change cut; the second was decided after it.
    return Eventually([&] { return Talks(from, to) == wanted && Talks(from, to) == wanted; });
  }
  static TestMesh::Policy DenyPrincipal(const std::string& principal) {
    auto policy = TestMesh::MakePolicy("deny", sec::DENY);
    policy.add_rules()->add_clauses()->add_matches()->add_principals()->set_exact(principal);
    return policy;
  }
  static TestMesh::Policy Strict() {
    auto policy = TestMesh::MakePolicy("istio_converted_static_strict", sec::DENY);
    policy.add_rules()->add_clauses()->add_matches()->add_not_principals()->mutable_presence();
    return policy;
  }

  PodNet *frontend, *local, *backend, *outside;
  Node *n1, *n2;
  std::vector<std::unique_ptr<Server>> servers;
};

TEST_F(PolicyTest, DenyAcrossNodesAndInOnePass) {
  EXPECT_TRUE(Talks(*frontend, backend->At(8080)));
  EXPECT_TRUE(Talks(*frontend, local->At(8080)));
  Put(DenyPrincipal("cluster.local/ns/shop/sa/frontend"));
  EXPECT_TRUE(EventuallyTalks(*frontend, backend->At(8080), false));
  EXPECT_TRUE(EventuallyTalks(*frontend, local->At(8080), false));
  EXPECT_TRUE(Talks(*local, backend->At(8080)));  // another identity
  EXPECT_TRUE(
      n2->Counts("qanat_connections_refused_total", {"destination", "policy_denied"}, Ge(1)));
  EXPECT_TRUE(n1->Counts("qanat_connections_refused_total", {"source", "denied_by_peer"}, Ge(1)));
  EXPECT_TRUE(n1->Counts("qanat_one_pass_connections_total", {"denied"}, Ge(1)));
  EXPECT_TRUE(n1->Counts("istio_tcp_connections_failed_total", {"response_flags=\"DENY\""}, Ge(1)));
  control_plane_.Remove("Authorization", "shop/deny");
  EXPECT_TRUE(EventuallyTalks(*frontend, backend->At(8080), true));
  EXPECT_TRUE(EventuallyTalks(*frontend, local->At(8080), true));
}

TEST_F(PolicyTest, DefaultDenyAndAnAllow) {
  Put(TestMesh::MakePolicy("none", sec::ALLOW));
  EXPECT_TRUE(EventuallyTalks(*frontend, backend->At(8080), false));
  EXPECT_TRUE(EventuallyTalks(*frontend, local->At(8080), false));
  auto allow = TestMesh::MakePolicy("allow", sec::ALLOW);
  auto* match = allow.add_rules()->add_clauses()->add_matches();
  match->add_namespaces()->set_exact("shop");
  match->add_destination_ports(8080);
  Put(allow);
  EXPECT_TRUE(EventuallyTalks(*frontend, backend->At(8080), true));
  EXPECT_TRUE(EventuallyTalks(*frontend, local->At(8080), true));
  EXPECT_FALSE(Talks(*frontend, backend->At(7000)));
  EXPECT_TRUE(n2->Counts("qanat_connections_refused_total", {"policy_no_allow"}, Ge(1)));
}

TEST_F(PolicyTest, StrictRefusesPlaintextOnly) {
  EXPECT_TRUE(Talks(*outside, backend->At(7000)));
  Put(Strict());
  EXPECT_TRUE(EventuallyTalks(*outside, backend->At(7000), false));
  EXPECT_TRUE(n2->Counts("qanat_connections_refused_total", {"mtls_required"}, Ge(1)));
  EXPECT_TRUE(Talks(*frontend, backend->At(7000)));
  EXPECT_TRUE(Talks(*frontend, local->At(8080)));  // one pass has an identity too
}

TEST_F(PolicyTest, LiveConnectionsOnEveryPathAreClosed) {
  Tcp tunnel = ConnectFrom(frontend->netns(), backend->At(8080));
  Tcp one_pass = ConnectFrom(frontend->netns(), local->At(8080));
  Tcp plain = ConnectFrom(outside->netns(), backend->At(7000));
  Tcp other = ConnectFrom(local->netns(), backend->At(8080));
  for (Tcp* tcp : {&tunnel, &one_pass, &plain, &other}) ASSERT_TRUE(Talks(*tcp));
  Put(DenyPrincipal("cluster.local/ns/shop/sa/frontend"));
  EXPECT_EQ(tunnel.Next(), "reset");
  EXPECT_EQ(one_pass.Next(), "reset");
  EXPECT_EQ(plain.Next(300), "nothing");
  Put(Strict());
  EXPECT_EQ(plain.Next(), "reset");
  EXPECT_TRUE(Talks(other));
  EXPECT_TRUE(n2->Counts("istio_tcp_connections_failed_total",
                         {"response_flags=\"DENY\"", "sa/frontend"}, Eq(1)));
}

// A selector policy that is attached later also reaches connections that exist.
TEST_F(PolicyTest, ALaterAttachedPolicyClosesToo) {
  Tcp tcp = ConnectFrom(frontend->netns(), backend->At(8080));
  ASSERT_TRUE(Talks(tcp));
  auto policy = DenyPrincipal("cluster.local/ns/shop/sa/frontend");
  policy.set_scope(sec::WORKLOAD_SELECTOR);
  Put(policy);
  EXPECT_EQ(tcp.Next(300), "nothing");
  Announce("backend", *backend, "n2",
           [](TestMesh::Workload& w) { w.add_authorization_policies("shop/deny"); });
  EXPECT_EQ(tcp.Next(), "reset");
}

TEST_F(PolicyTest, ANameNeverReceivedRefuses) {
  Announce("backend", *backend, "n2",
           [](TestMesh::Workload& w) { w.add_authorization_policies("shop/late"); });
  EXPECT_TRUE(EventuallyTalks(*frontend, backend->At(8080), false));
  EXPECT_TRUE(n2->Counts("qanat_connections_refused_total", {"policy_unknown"}, Ge(1)));
  auto late = DenyPrincipal("somebody/else");
  late.set_name("late");
  late.set_scope(sec::WORKLOAD_SELECTOR);
  Put(late);
  EXPECT_TRUE(EventuallyTalks(*frontend, backend->At(8080), true));
}

TEST_F(PolicyTest, AnUnintelligiblePolicyRefusesAndIsReported) {
  auto policy = TestMesh::MakePolicy("broken", sec::DENY);
  policy.add_rules()->add_clauses()->add_matches()->add_destination_ports(70000);
  Put(policy);
  EXPECT_TRUE(EventuallyTalks(*frontend, backend->At(8080), false));
  EXPECT_TRUE(n2->Counts("qanat_connections_refused_total", {"policy_not_understood"}, Ge(1)));
  EXPECT_TRUE(Eventually([&] {
    return control_plane_.LastNack().find("70000") != std::string::npos;
  })) << control_plane_.LastNack();
  EXPECT_THAT(n2->Get("/config_dump"), HasSubstr("70000 in destination_ports is not a port"));
}

// An address that now belongs to another service account is refused until node agent and control
// plane agree; live connections of the old owner end.
TEST_F(PolicyTest, AReusedAddressIsRefusedUntilBothAgree) {
  Tcp live = ConnectFrom(local->netns(), backend->At(8080));
  ASSERT_TRUE(Talks(live));
  // The node agent says: the pod is gone, another one has its address (and namespace).
  ASSERT_EQ(n1->agent().Del("uid-local"), "");
  EXPECT_EQ(live.Next(), "reset");
  ASSERT_EQ(n1->Enrol("thief", *local), "");
  // The control plane still announces the old one at that address: nothing goes in or out as it.
  Tcp as_old = ConnectFrom(local->netns(), backend->At(8080));
  EXPECT_EQ(as_old.Next(1000), "nothing");  // waits for both to agree
  Tcp to_old = ConnectFrom(frontend->netns(), local->At(8080));
  to_old.Send("x");
  EXPECT_NE(to_old.Next(1000), "data");
  control_plane_.Remove("Address", "Kubernetes//Pod/shop/local");
  Announce("thief", *local, "n1");
  EXPECT_TRUE(Talks(as_old));  // and went out as the new one:
  EXPECT_TRUE(Eventually(
      [&] { return n2->Metric("istio_tcp_connections_opened_total", {"sa/thief"}) == 1; }));
  EXPECT_TRUE(Talks(*frontend, local->At(8080)));
}

TEST_F(PolicyTest, AControlPlaneThatContradictsTheAgentIsNotBelieved) {
  Announce("frontend", *frontend, "n1",
           [](TestMesh::Workload& w) { w.set_service_account("admin"); });
  Tcp tcp;
  EXPECT_TRUE(Eventually([&] {
    tcp = ConnectFrom(frontend->netns(), backend->At(8080));
    return !(tcp.Send("x") && tcp.Next(500) == "data");
  }));
  EXPECT_EQ(tcp.Next(), "reset");
  EXPECT_TRUE(n1->Counts("qanat_connections_refused_total", {"address_mismatch"}, Ge(1)));
  EXPECT_EQ(n2->Metric("istio_tcp_connections_opened_total", {"sa/admin"}), 0);
}

TEST_F(PolicyTest, WhyGivesTheSameVerdicts) {
  Put(DenyPrincipal("cluster.local/ns/shop/sa/frontend"));
  ASSERT_TRUE(EventuallyTalks(*frontend, backend->At(8080), false));
  const auto body = [](const std::string& response) {
    return nlohmann::json::parse(response.substr(response.find("\r\n\r\n") + 4));
  };
  auto in = body(n2->Get("/debug/why/inbound?dst=" + backend->ip() +
                         "&port=8080&src_identity=spiffe://cluster.local/ns/shop/sa/frontend"
                         "&src_ip=" +
                         frontend->ip()));
  EXPECT_EQ(in["verdict"], "deny");
  EXPECT_EQ(in["reason"], "policy_denied");
  EXPECT_EQ(in["policies"][0]["rules"][0]["clauses"][0]["conditions"][0]["field"], "principals");
  in = body(n2->Get("/debug/why/inbound?dst=" + backend->ip() + "&port=8080&src_identity="));
  EXPECT_EQ(in["verdict"], "allow");
  auto out = body(n1->Get("/debug/why/outbound?src=shop/frontend&dst=" + local->At(8080)));
  EXPECT_EQ(out["route"], "one-pass");
  out = body(n1->Get("/debug/why/outbound?src=uid-frontend&dst=" + backend->At(8080)));
  EXPECT_EQ(out["route"], "hbone");
  EXPECT_EQ(out["authority"], backend->At(8080));
  out = body(n1->Get("/debug/why/outbound?src=nobody&dst=x"));
  EXPECT_THAT(out["error"], HasSubstr("nobody"));
}

}  // namespace
}  // namespace qanat::ztunnel::test
