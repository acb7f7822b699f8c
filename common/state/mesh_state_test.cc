// SPDX-License-Identifier: Apache-2.0
#include "common/state/mesh_state.h"

#include <gtest/gtest.h>

#include <set>

#include "common/proto/authorization.pb.h"
#include "common/proto/workload.pb.h"

namespace qanat::state {
namespace {

namespace wl = istio::workload;
namespace sec = istio::security;
using model::Reason;

net::IpAddress Ip(const char* text) { return *net::IpAddress::Parse(text); }
std::string Bytes(const char* text) {
  const net::IpAddress ip = Ip(text);
  return {reinterpret_cast<const char*>(ip.bytes().data()), ip.bytes().size()};
}

class MeshStateTest : public ::testing::Test {
 protected:
  wl::Workload Pod(const std::string& name, const char* ip, const char* ns = "shop") {
    wl::Workload w;
    w.set_uid("Kubernetes//Pod/" + std::string(ns) + "/" + name);
    w.set_name(name);
    w.set_namespace_(ns);
    w.add_addresses(Bytes(ip));
    w.set_tunnel_protocol(wl::HBONE);
    return w;
  }
  void Put(const wl::Workload& w) {
    wl::Address a;
    *a.mutable_workload() = w;
    ASSERT_TRUE(state_.UpsertAddress(w.uid(), a.SerializeAsString()).has_value());
  }
  wl::Service Svc(const char* name, const char* vip, const char* ns = "shop") {
    wl::Service s;
    s.set_name(name);
    s.set_namespace_(ns);
    s.set_hostname(std::string(name) + ".svc");
    if (vip != nullptr) s.add_addresses()->set_address(Bytes(vip));
    auto* port = s.add_ports();
    port->set_service_port(80);
    port->set_target_port(8080);
    return s;
  }
  void Put(const wl::Service& s) {
    wl::Address a;
    *a.mutable_service() = s;
    ASSERT_TRUE(state_.UpsertAddress(s.namespace_() + "/" + s.hostname(), a.SerializeAsString()));
  }
  static void Join(wl::Workload& w, const char* key) {
    auto* port = (*w.mutable_services())[key].add_ports();
    port->set_service_port(80);
    port->set_target_port(8080);
  }
  sec::Authorization Policy(const char* ns, const char* name, sec::Scope scope,
                            sec::Action action = sec::ALLOW) {
    sec::Authorization p;
    p.set_name(name);
    p.set_namespace_(ns);
    p.set_scope(scope);
    p.set_action(action);
    return p;
  }
  Status Put(const sec::Authorization& p) {
    return state_.UpsertAuthorization(p.namespace_() + "/" + p.name(), p.SerializeAsString());
  }
  MeshState state_;
};

TEST_F(MeshStateTest, LookupsFollowUpdatesAndRemovals) {
  Put(Pod("a", "10.0.0.1"));
  auto snapshot = state_.Publish();
  ASSERT_NE(snapshot->WorkloadByAddress("", Ip("10.0.0.1")), nullptr);
  EXPECT_EQ(snapshot->WorkloadByAddress("other", Ip("10.0.0.1")), nullptr);
  EXPECT_EQ(state_.Publish(), snapshot);  // nothing changed: the same snapshot

  Put(Pod("a", "10.0.0.2"));
  const auto after = state_.Publish();
  EXPECT_EQ(after->WorkloadByAddress("", Ip("10.0.0.1")), nullptr);
  ASSERT_NE(after->WorkloadByAddress("", Ip("10.0.0.2")), nullptr);
  // The earlier snapshot is as it was.
  EXPECT_NE(snapshot->WorkloadByAddress("", Ip("10.0.0.1")), nullptr);
  EXPECT_EQ(snapshot->WorkloadByAddress("", Ip("10.0.0.2")), nullptr);

  state_.RemoveAddress("Kubernetes//Pod/shop/a");
  const auto gone = state_.Publish();
  EXPECT_EQ(gone->WorkloadByUid("Kubernetes//Pod/shop/a"), nullptr);
  EXPECT_EQ(gone->WorkloadByAddress("", Ip("10.0.0.2")), nullptr);
  EXPECT_EQ(gone->workload_count(), 0u);
}

TEST_F(MeshStateTest, SeveralOnOneAddress) {
  auto entry = Pod("x", "10.0.0.1");
  entry.set_uid("Kubernetes/networking.istio.io/WorkloadEntry/shop/x");
  Put(entry);
  auto plain = Pod("plain", "10.0.0.1");
  plain.set_tunnel_protocol(wl::NONE);
  Put(plain);
  Put(Pod("hbone", "10.0.0.1"));
  const auto snapshot = state_.Publish();
  EXPECT_EQ(snapshot->WorkloadByAddress("", Ip("10.0.0.1"))->name(), "hbone");
  EXPECT_EQ(snapshot->WorkloadsByAddress("", Ip("10.0.0.1")).size(), 3u);
}

TEST_F(MeshStateTest, HostNetworkIsNotFoundByAddress) {
  auto pod = Pod("node-agent", "10.90.0.1");
  pod.set_network_mode(wl::HOST_NETWORK);
  Put(pod);
  const auto snapshot = state_.Publish();
  EXPECT_EQ(snapshot->WorkloadByAddress("", Ip("10.90.0.1")), nullptr);
  EXPECT_NE(snapshot->WorkloadByUid(pod.uid()), nullptr);
}

TEST_F(MeshStateTest, EndpointsInWhateverOrderTheyArrive) {
  auto a = Pod("a", "10.0.0.1");
  Join(a, "shop/backend.svc");
  Put(a);  // before its service
  Put(Svc("backend", "10.96.0.1"));
  auto b = Pod("b", "10.0.0.2");
  Join(b, "shop/backend.svc");
  Put(b);
  auto snapshot = state_.Publish();
  const auto service = snapshot->ServiceByVip("", Ip("10.96.0.1"), "shop");
  ASSERT_NE(service, nullptr);
  EXPECT_EQ(snapshot->EndpointsOf(*service).size(), 2u);
  // An update of a workload does not make it an endpoint twice.
  b.set_status(wl::UNHEALTHY);
  Put(b);
  snapshot = state_.Publish();
  ASSERT_EQ(snapshot->EndpointsOf(*service).size(), 2u);
  // No longer selected.
  b.clear_services();
  Put(b);
  state_.RemoveAddress(a.uid());
  snapshot = state_.Publish();
  EXPECT_TRUE(snapshot->EndpointsOf(*service).empty());
}

// What pods of a service have alike is kept once: in a batch, and with those known from before.
TEST_F(MeshStateTest, ServicesOfAlikePodsAreKeptOnce) {
  for (const char* name : {"a", "b"}) {
    wl::Workload pod = Pod(name, "10.0.0.1");
    Join(pod, "shop/backend.svc");
    Put(pod);
  }
  const auto before = state_.Publish();
  wl::Workload later = Pod("c", "10.0.0.3");
  Join(later, "shop/backend.svc");
  Put(later);
  wl::Workload other = Pod("d", "10.0.0.4");
  Join(other, "shop/backend.svc");
  Join(other, "shop/second.svc");
  Put(other);
  const auto now = state_.Publish();
  const auto list = [&](const char* name) {
    return &now->WorkloadByUid("Kubernetes//Pod/shop/" + std::string(name))->services[0];
  };
  EXPECT_EQ(list("a"), list("b"));
  EXPECT_EQ(list("a"), list("c"));
  EXPECT_NE(list("a"), list("d"));
  EXPECT_EQ(now->EndpointsOf({.ns = "shop", .hostname = "backend.svc"}).size(), 4u);
  EXPECT_EQ(now->EndpointsOf({.ns = "shop", .hostname = "second.svc"}).size(), 1u);
  // They outlive the one that brought them.
  state_.RemoveAddress("Kubernetes//Pod/shop/a");
  EXPECT_EQ(list("b")->first, "shop/backend.svc");
  EXPECT_EQ(state_.Publish()->EndpointsOf({.ns = "shop", .hostname = "backend.svc"}).size(), 3u);
}

TEST_F(MeshStateTest, ServiceRanking) {
  Put(Svc("x", "10.96.0.1", "other"));
  auto canonical = Svc("x", "10.96.0.1", "third");
  canonical.set_canonical(true);
  Put(canonical);
  auto snapshot = state_.Publish();
  EXPECT_EQ(snapshot->ServiceByVip("", Ip("10.96.0.1"), "shop")->ns, "third");
  EXPECT_EQ(snapshot->ServiceByVip("", Ip("10.96.0.1"), "other")->ns, "other");
  EXPECT_EQ(snapshot->ServiceByHostname("x.svc", "other")->ns, "other");
  EXPECT_EQ(snapshot->ServiceByHostname("x.svc", "shop", "other")->ns, "third");
  canonical.set_visibility(wl::Service::NAMESPACE);
  Put(canonical);
  snapshot = state_.Publish();
  EXPECT_EQ(snapshot->ServiceByVip("", Ip("10.96.0.1"), "shop")->ns, "other");
  // Two that are equal but for the namespace that is preferred.
  Put(Svc("x", "10.96.0.2", "fourth"));
  snapshot = state_.Publish();
  EXPECT_EQ(snapshot->ServiceByHostname("x.svc", "shop", "fourth")->ns, "fourth");
  EXPECT_EQ(snapshot->ServiceByHostname("x.svc", "shop", "other")->ns, "other");
}

TEST_F(MeshStateTest, Blocks) {
  auto wide = Svc("wide", nullptr);
  auto* block = wide.add_addresses();
  block->set_address(Bytes("10.0.0.0"));
  block->set_length(8);
  Put(wide);
  auto narrow = wide;
  narrow.set_hostname("narrow.svc");
  narrow.mutable_addresses(0)->set_length(16);
  Put(narrow);
  Put(Svc("exact", "10.0.0.9"));
  auto snapshot = state_.Publish();
  EXPECT_EQ(snapshot->ServiceByVip("", Ip("10.0.0.9"), "shop")->hostname, "exact.svc");
  EXPECT_EQ(snapshot->ServiceByVip("", Ip("10.0.3.9"), "shop")->hostname, "narrow.svc");
  EXPECT_EQ(snapshot->ServiceByVip("", Ip("10.7.3.9"), "shop")->hostname, "wide.svc");
  // An endpoint update does not duplicate a block (a defect seen elsewhere).
  Put(narrow);
  narrow.set_canonical(true);
  Put(narrow);
  state_.RemoveAddress("shop/narrow.svc");
  snapshot = state_.Publish();
  EXPECT_EQ(snapshot->ServiceByVip("", Ip("10.0.3.9"), "shop")->hostname, "wide.svc");
}

TEST_F(MeshStateTest, GatewaysOfNetworks) {
  auto far = [&](const char* name, const char* network, const char* gateway) {
    auto w = Pod(name, "10.0.0.1");
    w.set_network(network);
    if (gateway != nullptr) {
      w.mutable_network_gateway()->mutable_address()->set_address(Bytes(gateway));
    }
    return w;
  };
  const auto gateways = [&](const char* network) {
    std::set<std::string> out;
    for (const auto& gateway : state_.Publish()->NetworkGateways(network)) {
      out.insert(std::get<model::NetworkAddress>(gateway.destination).ip.ToString());
    }
    return out;
  };
  EXPECT_TRUE(gateways("far").empty());
  Put(far("a", "far", "172.16.0.1"));
  Put(far("b", "far", "172.16.0.1"));
  Put(far("c", "far", "172.16.0.2"));
  Put(far("d", "near", nullptr));
  EXPECT_EQ(gateways("far"), (std::set<std::string>{"172.16.0.1", "172.16.0.2"}));
  EXPECT_TRUE(gateways("near").empty());
  state_.RemoveAddress("Kubernetes//Pod/shop/a");
  EXPECT_EQ(gateways("far").size(), 2u);
  Put(far("b", "far", "172.16.0.3"));
  EXPECT_EQ(gateways("far"), (std::set<std::string>{"172.16.0.2", "172.16.0.3"}));
  state_.RemoveAddress("Kubernetes//Pod/shop/b");
  state_.RemoveAddress("Kubernetes//Pod/shop/c");
  EXPECT_TRUE(gateways("far").empty());
}

TEST_F(MeshStateTest, PolicySelection) {
  ASSERT_TRUE(Put(Policy("root", "global", sec::GLOBAL)));
  ASSERT_TRUE(Put(Policy("shop", "ns", sec::NAMESPACE)));
  ASSERT_TRUE(Put(Policy("other", "ns", sec::NAMESPACE)));
  ASSERT_TRUE(Put(Policy("shop", "selected", sec::WORKLOAD_SELECTOR)));
  ASSERT_TRUE(Put(Policy("shop", "not-selected", sec::WORKLOAD_SELECTOR)));
  auto pod = Pod("a", "10.0.0.1");
  pod.add_authorization_policies("shop/selected");
  pod.add_authorization_policies("shop/ns");  // named and in scope: once
  Put(pod);
  const auto snapshot = state_.Publish();
  const auto set = snapshot->PoliciesFor(*snapshot->WorkloadByUid(pod.uid()));
  std::set<std::string> names;
  for (const auto& policy : set.policies) names.insert(policy->Key());
  EXPECT_EQ(names, (std::set<std::string>{"root/global", "shop/ns", "shop/selected"}));
  EXPECT_EQ(set.policies.size(), 3u);
  EXPECT_TRUE(set.unknown.empty());
}

TEST_F(MeshStateTest, APolicyNeverReceivedRefusesARemovedOneDoesNot) {
  auto pod = Pod("a", "10.0.0.1");
  pod.add_authorization_policies("shop/late");
  Put(pod);
  auto snapshot = state_.Publish();
  const auto unknown = [&] {
    snapshot = state_.Publish();
    return snapshot->PoliciesFor(*snapshot->WorkloadByUid(pod.uid())).unknown;
  };
  EXPECT_EQ(unknown(), std::vector<std::string>{"shop/late"});
  ASSERT_TRUE(Put(Policy("shop", "late", sec::WORKLOAD_SELECTOR)));
  EXPECT_TRUE(unknown().empty());
  state_.RemoveAuthorization("shop/late");
  EXPECT_TRUE(unknown().empty());  // the server took it away after it had sent the workload
  Put(pod);                        // ... but now the server names it again
  EXPECT_EQ(unknown(), std::vector<std::string>{"shop/late"});
}

TEST_F(MeshStateTest, PolicyScopeMayChange) {
  auto policy = Policy("shop", "p", sec::NAMESPACE);
  ASSERT_TRUE(Put(policy));
  Put(Pod("a", "10.0.0.1"));
  const auto count = [&] {
    const auto snapshot = state_.Publish();
    return snapshot->PoliciesFor(*snapshot->WorkloadByAddress("", Ip("10.0.0.1"))).policies.size();
  };
  EXPECT_EQ(count(), 1u);
  policy.set_scope(sec::WORKLOAD_SELECTOR);
  ASSERT_TRUE(Put(policy));
  EXPECT_EQ(count(), 0u);
  policy.set_scope(sec::GLOBAL);
  ASSERT_TRUE(Put(policy));
  EXPECT_EQ(count(), 1u);
  state_.RemoveAuthorization("shop/p");
  EXPECT_EQ(count(), 0u);
}

TEST_F(MeshStateTest, APolicyWithABadPartIsAppliedAndReported) {
  auto policy = Policy("shop", "bad", sec::NAMESPACE, sec::DENY);
  policy.add_rules()->add_clauses()->add_matches()->add_destination_ports(70000);
  const Status status = Put(policy);
  ASSERT_FALSE(status.has_value());
  EXPECT_NE(status.error().message.find("70000"), std::string::npos);
  Put(Pod("a", "10.0.0.1"));
  const auto snapshot = state_.Publish();
  const auto set = snapshot->PoliciesFor(*snapshot->WorkloadByAddress("", Ip("10.0.0.1")));
  EXPECT_EQ(policy::Evaluate(set, {{}, Ip("10.0.0.9"), Ip("10.0.0.1"), 80}).reason,
            Reason::kPolicyNotUnderstood);
}

TEST_F(MeshStateTest, VerdictVersionMovesWithPoliciesAndWorkloadsOnly) {
  Put(Pod("a", "10.0.0.1"));
  const auto first = state_.Publish();
  Put(Svc("backend", "10.96.0.1"));
  const auto second = state_.Publish();
  EXPECT_GT(second->version(), first->version());
  EXPECT_EQ(second->policy_version(), first->policy_version());
  ASSERT_TRUE(Put(Policy("shop", "p", sec::NAMESPACE)));
  EXPECT_GT(state_.Publish()->policy_version(), second->policy_version());
}

TEST_F(MeshStateTest, FreshnessIsPublishedAndReachesPolicies) {
  Put(Pod("a", "10.0.0.1"));
  const auto live = state_.Publish();
  EXPECT_EQ(live->freshness(), Freshness::kLive);
  const auto then = std::chrono::system_clock::from_time_t(1'763'800'000);
  state_.SetFreshness(Freshness::kSaved, then);
  const auto saved = state_.Publish();
  EXPECT_EQ(saved->freshness(), Freshness::kSaved);
  EXPECT_EQ(saved->current_at(), then);
  EXPECT_EQ(state_.Publish(), saved);
  const auto pod = saved->WorkloadByAddress("", Ip("10.0.0.1"));
  EXPECT_FALSE(saved->PoliciesFor(*pod).expired);
  state_.SetFreshness(Freshness::kExpired, then);
  const auto expired = state_.Publish();
  EXPECT_TRUE(expired->PoliciesFor(*pod).expired);
  EXPECT_GT(expired->policy_version(), saved->policy_version());
  EXPECT_EQ(live->freshness(), Freshness::kLive);
  MeshState moved = std::move(state_);
  EXPECT_EQ(moved.Publish()->workload_count(), 1u);
  state_ = MeshState();
}

TEST_F(MeshStateTest, ANameAndItsUidAreOnePieceOfMemory) {
  const auto pod = Pod("a", "10.0.0.1");
  wl::Address bytes;
  *bytes.mutable_workload() = pod;
  const KeptText name = pod.uid();
  ASSERT_TRUE(state_.UpsertAddress(name, bytes.SerializeAsString()));
  const auto known = state_.Publish()->WorkloadByUid(name);
  ASSERT_NE(known, nullptr);
  EXPECT_EQ(known->uid.view().data(), name.view().data());
  EXPECT_EQ(known->name(), "a");
}

TEST_F(MeshStateTest, OfTwoAddressesEachIsFoundAndOneMayGo) {
  auto pod = Pod("a", "10.0.0.1");
  pod.add_addresses(Bytes("fd00::1"));
  Put(pod);
  Put(Pod("b", "fd00::1"));
  const auto before = state_.Publish();
  EXPECT_EQ(before->WorkloadByAddress("", Ip("10.0.0.1"))->name(), "a");
  ASSERT_EQ(before->WorkloadsByAddress("", Ip("fd00::1")).size(), 2u);
  EXPECT_EQ(before->WorkloadByAddress("", Ip("fd00::1"))->name(), "a") << "the first of equal ones";
  Put(Pod("a", "10.0.0.1"));
  const auto after = state_.Publish();
  EXPECT_EQ(after->WorkloadByAddress("", Ip("10.0.0.1"))->name(), "a");
  ASSERT_EQ(after->WorkloadsByAddress("", Ip("fd00::1")).size(), 1u);
  EXPECT_EQ(after->WorkloadByAddress("", Ip("fd00::1"))->name(), "b");
  EXPECT_EQ(before->WorkloadsByAddress("", Ip("fd00::1")).size(), 2u) << "a snapshot stays";
}

TEST_F(MeshStateTest, ABadUpdateLeavesTheOldOne) {
  Put(Pod("a", "10.0.0.1"));
  wl::Address bad;
  *bad.mutable_workload() = Pod("a", "10.0.0.2");
  bad.mutable_workload()->set_tunnel_protocol(wl::LEGACY_ISTIO_MTLS);
  EXPECT_FALSE(state_.UpsertAddress("Kubernetes//Pod/shop/a", bad.SerializeAsString()));
  EXPECT_NE(state_.Publish()->WorkloadByAddress("", Ip("10.0.0.1")), nullptr);
}

}  // namespace
}  // namespace qanat::state
