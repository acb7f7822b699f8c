// SPDX-License-Identifier: Apache-2.0
#include "agent/direct/verdict.h"

#include <gmock/gmock.h>

#include "common/route/mesh_for_test.h"

namespace qanat::agent::direct {
namespace {

namespace security = istio::security;
namespace wire = istio::workload;
using model::Reason;
using route::At;
using route::Ip;
using route::IpBytes;
using route::TestMesh;
using testing::HasSubstr;

// frontend calls backend, both on this node, dual stack, backend behind service 10.96.0.10.
class World {
 public:
  World() {
    frontend = TestMesh::MakePod("frontend", "10.91.1.5");
    frontend.add_addresses(IpBytes("fd91:1::5"));
    backend = TestMesh::MakePod("backend", "10.91.1.7");
    backend.add_addresses(IpBytes("fd91:1::7"));
    service = TestMesh::MakeService("backend", "10.96.0.10");
    TestMesh::Join(backend, service);
    source = Here("frontend", {"10.91.1.5", "fd91:1::5"});
    destination = Here("backend", {"10.91.1.7", "fd91:1::7"});
  }
  static Member Here(const std::string& name, const std::vector<std::string>& addresses) {
    Member member;
    member.facts = TestMesh::LocalPod(name, "");
    for (const auto& address : addresses) member.facts.addresses.push_back(Ip(address));
    member.path_proved = true;
    return member;
  }
  security::Match& Add(const std::string& name, security::Action action) {
    policies.push_back(TestMesh::MakePolicy(name, action));
    return *policies.back().add_rules()->add_clauses()->add_matches();
  }
  Verdict Decide(const std::string& target = "10.91.1.7:8080", const std::string& from = "") {
    if (announce_source) mesh.Put(frontend);
    mesh.Put(backend).Put(service);
    for (const auto& policy : policies) mesh.Put(policy);
    const bool v6 = target.front() == '[';
    return Judge(*mesh.Snapshot(), {}, source,
                 Ip(!from.empty() ? from : (v6 ? "fd91:1::5" : "10.91.1.5")), destination,
                 At(target));
  }

  TestMesh mesh;
  TestMesh::Workload frontend, backend;
  TestMesh::Service service;
  std::vector<TestMesh::Policy> policies;
  Member source, destination;
  bool announce_source = true;
};

void ExpectDirect(const Verdict& verdict, const std::string& policy = "") {
  EXPECT_TRUE(verdict.direct) << verdict.why_not;
  EXPECT_TRUE(verdict.allowed);
  EXPECT_EQ(verdict.policy, policy);
}
void ExpectByProxy(const Verdict& verdict, const std::string& why) {
  EXPECT_FALSE(verdict.direct);
  EXPECT_TRUE(verdict.allowed) << verdict.why_not;
  EXPECT_THAT(verdict.why_not, HasSubstr(why));
}
void ExpectRefused(const Verdict& verdict, Reason reason, const std::string& policy = "") {
  EXPECT_FALSE(verdict.direct);
  EXPECT_FALSE(verdict.allowed);
  EXPECT_EQ(verdict.reason, reason) << verdict.why_not;
  EXPECT_EQ(verdict.policy, policy);
  EXPECT_NE(verdict.why_not, "");
}

TEST(Verdict, TwoPodsOfThisNodeWithoutPolicies) {
  World world;
  ExpectDirect(world.Decide());
  ExpectDirect(world.Decide("[fd91:1::7]:8080"));
}

TEST(Verdict, PoliciesDecideByWhoFromWhereAndWhereTo) {
  World world;
  auto& match = world.Add("allow", security::ALLOW);
  match.add_principals()->set_exact("cluster.local/ns/shop/sa/frontend");
  match.add_destination_ports(8080);
  ExpectDirect(world.Decide(), "shop/allow");
  ExpectRefused(world.Decide("10.91.1.7:9090"), Reason::kPolicyNoAllow);
  auto& deny = *world.Add("deny", security::DENY).add_source_ips();
  deny.set_address(IpBytes("10.91.1.5"));
  deny.set_length(32);
  ExpectRefused(world.Decide(), Reason::kPolicyDenied, "shop/deny");
  ExpectDirect(world.Decide("[fd91:1::7]:8080"), "shop/allow");  // from the other address
}

TEST(Verdict, WhatAPolicySaysThatNobodyUnderstandsRefuses) {
  World world;
  auto& match = world.Add("deny", security::DENY);
  match.add_extensions()->set_name("next-year");
  auto policy = world.policies.back();
  world.policies.clear();
  world.mesh.PutPartly(policy);
  ExpectRefused(world.Decide(), Reason::kPolicyNotUnderstood, "shop/deny");
}

TEST(Verdict, ADryRunIsWrittenByTheProxy) {
  World world;
  world.Add("trial", security::DENY).add_destination_ports(8080);
  world.policies.back().set_dry_run(true);
  ExpectByProxy(world.Decide(), "shop/trial");
  ExpectDirect(world.Decide("10.91.1.7:9090"));
}

TEST(Verdict, AWaypointIsNotPassedBy) {
  World world;
  auto waypoint_service = TestMesh::MakeService("waypoint", "10.96.0.20");
  world.mesh.Put(waypoint_service);
  // Of the service: its pods may be called by their addresses, and are.
  *world.service.mutable_waypoint() = TestMesh::GatewayOf(waypoint_service);
  ExpectDirect(world.Decide());
  // Unless the service asks for it.
  world.service.add_extensions()->set_name("qanat.io/require-waypoint");
  ExpectRefused(world.Decide(), Reason::kWaypointRequired);
  world.service.clear_extensions();
  ExpectDirect(world.Decide());
  *world.backend.mutable_waypoint() = TestMesh::GatewayOf(waypoint_service);
  ExpectRefused(world.Decide(), Reason::kWaypointRequired);
}

TEST(Verdict, WhatNeedsTheProxyGoesThroughIt) {
  struct Row {
    const char* name;
    void (*change)(World&);
    const char* why;
    const char* target = "10.91.1.7:8080";
    const char* from = "";
  };
  const Row rows[] = {
      {"not HBONE", [](World& w) { w.backend.set_tunnel_protocol(wire::NONE); }, "not an HBONE"},
      {"an application tunnel",
       [](World& w) {
         w.backend.mutable_application_tunnel()->set_protocol(wire::ApplicationTunnel::PROXY);
       },
       "application tunnel"},
      {"encryption", [](World& w) { w.frontend.add_extensions()->set_name("qanat.io/encrypt"); },
       "the source asks for encryption"},
      {"another network", [](World& w) { w.backend.set_network("far"); }, ""},
      {"its outbound port", [](World&) {}, "port of the proxy", "10.91.1.7:15001"},
      {"its inbound port", [](World&) {}, "port of the proxy", "10.91.1.7:15006"},
      {"its tunnel port", [](World&) {}, "port of the proxy", "10.91.1.7:15008"},
      {"its DNS port", [](World&) {}, "port of the proxy", "10.91.1.7:15053"},
      {"the probes' port", [](World&) {}, "port of the proxy", "10.91.1.7:15009"},
      {"another source address", [](World&) {}, "not an address of", "10.91.1.7:8080",
       "10.91.1.99"},
      {"the source asks for the proxy", [](World& w) { w.source.wish = Wish::kProxy; },
       "frontend asks for \"proxy\""},
      {"the destination for a tunnel", [](World& w) { w.destination.wish = Wish::kEncrypt; },
       "backend asks for \"encrypt\""},
      {"the source's way is not proved", [](World& w) { w.source.path_proved = false; },
       "frontend: that its device"},
      {"the destination's neither", [](World& w) { w.destination.path_proved = false; },
       "backend: that its device"},
      {"nobody knows the source (yet)", [](World& w) { w.announce_source = false; },
       "has not announced"},
      {"the state of the last run", [](World& w) { w.mesh.SetFreshness(state::Freshness::kSaved); },
       "no control plane"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    World world;
    row.change(world);
    ExpectByProxy(world.Decide(row.target, row.from), row.why);
  }
}

TEST(Verdict, WhoIsNotWhoItWasIsRefused) {
  World world;
  world.destination.facts.service_account = "other";
  ExpectRefused(world.Decide(), Reason::kAddressMismatch);
  World reused;  // the address was another's, and the control plane still says so
  auto former = TestMesh::MakePod("former", "10.91.1.5");
  reused.mesh.Put(former);
  ExpectRefused(reused.Decide(), Reason::kAddressMismatch);
}

TEST(Verdict, AnAddressOfTwoWorkloadsIsForTheProxyToSortOut) {
  World world;
  auto twin = TestMesh::MakePod("backend-b", "10.91.1.7");
  twin.set_service_account("backend");  // the same identity, another pod
  world.mesh.Put(twin).Put(world.backend);
  const auto found = world.mesh.Snapshot()->WorkloadByAddress("", Ip("10.91.1.7"));
  ASSERT_NE(found, nullptr);
  // Of the two, that one which the address does not lead to.
  world.destination.facts.name = found->name() == "backend" ? "backend-b" : "backend";
  world.destination.facts.service_account = "backend";
  ExpectByProxy(world.Decide(), "disagree");
}

TEST(Wishes, AreReadAndWhatIsNotUnderstoodKeepsTheProxy) {
  for (const Wish wish : {Wish::kDirect, Wish::kProxy, Wish::kEncrypt}) {
    bool understood = false;
    EXPECT_EQ(ParseWish(ToString(wish), &understood), wish);
    EXPECT_TRUE(understood);
  }
  for (const char* text : {"", "Direct", "kernel", "direct "}) {
    bool understood = true;
    EXPECT_EQ(ParseWish(text, &understood), Wish::kProxy) << text;
    EXPECT_FALSE(understood) << text;
  }
}

}  // namespace
}  // namespace qanat::agent::direct
