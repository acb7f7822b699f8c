// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/route/stream_source.h"

#include <functional>
#include <vector>

#include "ztunnel/mesh_for_test.h"

namespace qanat::ztunnel {
namespace {

using model::Reason;

// Two pods of one account on n1 and one on n2, a neighbour of another account, and n1's proxy.
class StreamSourceTest : public ::testing::Test {
 protected:
  StreamSourceTest() {
    mesh_.Put(Pod("front-1", "10.91.1.1", "n1"));
    mesh_.Put(Pod("front-2", "10.91.1.2", "n1"));
    mesh_.Put(Pod("front-3", "10.91.2.3", "n2"));
    mesh_.Put(TestMesh::MakePod("other", "10.91.1.9", "n1"));
    mesh_.Put(Proxy());
  }
  static TestMesh::Workload Proxy() {
    auto proxy = TestMesh::MakePod("ztunnel-n1", "10.91.1.250", "n1", "qanat-system");
    proxy.set_tunnel_protocol(istio::workload::NONE);
    return proxy;
  }
  static TestMesh::Workload Pod(const std::string& name, const std::string& ip,
                                const std::string& node) {
    auto pod = TestMesh::MakePod(name, ip, node);
    pod.set_service_account("front");
    return pod;
  }
  StreamSource Check(const std::string& said, const std::string& from = "10.91.1.250",
                     const std::string& account = "front") {
    return CheckStreamSource(*mesh_.Snapshot(), "",
                             {model::Identity{"cluster.local", "shop", account}, Ip(from)}, said);
  }
  TestMesh mesh_;
};

TEST_F(StreamSourceTest, PodsOfTheIdentityOnTheNodeOfTheTunnel) {
  for (const char* said : {"10.91.1.1:40000", "10.91.1.2:1"}) {
    const StreamSource source = Check(said);
    EXPECT_EQ(source.reason, Reason::kNone) << source.detail;
    EXPECT_EQ(source.source.ToString(), said);
  }
  // The tunnel's own address needs nobody's word.
  EXPECT_EQ(Check("10.91.1.250:40000").reason, Reason::kNone);
}

TEST_F(StreamSourceTest, NobodyElse) {
  const struct {
    const char *said, *from, *account, *why;
  } rows[] = {
      {"10.91.1.9:40000", "10.91.1.250", "front", "another account's pod"},
      {"10.91.1.1:40000", "10.91.1.250", "other", "of another account"},
      {"10.91.2.3:40000", "10.91.1.250", "front", "a pod of another node"},
      {"10.91.1.1:40000", "10.91.7.7", "front", "a tunnel from nowhere that is known"},
      {"10.91.7.7:40000", "10.91.1.250", "front", "an address that nobody has"},
      {"127.0.0.1:40000", "10.91.1.250", "front", "loopback"},
      {"0.0.0.0:40000", "10.91.1.250", "front", "no address"},
      {"10.91.1.1:0", "10.91.1.250", "front", "no port"},
      {"10.91.1.1", "10.91.1.250", "front", "no port at all"},
      {"front-1:40000", "10.91.1.250", "front", "a name"},
      {"", "10.91.1.250", "front", "nothing"},
      {"10.91.1.1:40000, 10.91.1.2:40000", "10.91.1.250", "front", "two"},
  };
  for (const auto& row : rows) {
    const StreamSource source = Check(row.said, row.from, row.account);
    EXPECT_EQ(source.reason, Reason::kSourceUnproven) << row.why;
    EXPECT_FALSE(source.detail.empty()) << row.why;
  }
}

TEST_F(StreamSourceTest, AddressThatWasGivenToAnother) {
  ASSERT_EQ(Check("10.91.1.1:40000").reason, Reason::kNone);
  mesh_.Put(TestMesh::MakePod("newcomer", "10.91.1.1", "n1"));
  EXPECT_EQ(Check("10.91.1.1:40000").reason, Reason::kSourceUnproven);
}

// Each of those that have the address must be one that the proxy may speak for.
TEST_F(StreamSourceTest, EveryoneAtTheAddressCounts) {
  for (const char* name : {"a-first", "z-last"}) {  // whatever their order
    auto both = Pod(name, "10.91.1.1", "n1");
    mesh_.Put(both);
    EXPECT_EQ(Check("10.91.1.1:40000").reason, Reason::kNone) << "of one kind";
    for (const auto& change : std::vector<std::function<void(TestMesh::Workload&)>>{
             [](auto& w) { w.set_native_tunnel(true); },
             [](auto& w) { w.set_tunnel_protocol(istio::workload::NONE); },
             [](auto& w) { w.set_node("n2"); }, [](auto& w) { w.set_cluster_id("other"); },
             [](auto& w) { w.set_trust_domain("elsewhere"); }}) {
      auto changed = both;
      change(changed);
      mesh_.Put(changed);
      EXPECT_EQ(Check("10.91.1.1:40000").reason, Reason::kSourceUnproven) << changed.DebugString();
    }
    mesh_.Remove(both.uid());
  }
}

TEST_F(StreamSourceTest, WhoeverMakesTunnelsItself) {
  auto native = Pod("front-1", "10.91.1.1", "n1");
  native.set_native_tunnel(true);
  mesh_.Put(native);
  EXPECT_EQ(Check("10.91.1.1:40000").reason, Reason::kSourceUnproven);
  auto outside = Pod("front-2", "10.91.1.2", "n1");
  outside.set_tunnel_protocol(istio::workload::NONE);
  mesh_.Put(outside);
  EXPECT_EQ(Check("10.91.1.2:40000").reason, Reason::kSourceUnproven);
}

// Whoever runs as an account can have its certificate, and may be anywhere but where the proxy is.
TEST_F(StreamSourceTest, OnlyFromANodeProxy) {
  EXPECT_EQ(Check("10.91.1.2:40000", "10.91.1.1").reason, Reason::kSourceUnproven)
      << "a sibling that makes its own tunnels";
  EXPECT_EQ(Check("10.91.1.1:40000", "10.91.1.9").reason, Reason::kSourceUnproven)
      << "another pod of the mesh that has got its key";
  auto lies = Pod("front-9", "10.91.1.77", "n1");  // out of the mesh, but of that account
  lies.set_tunnel_protocol(istio::workload::NONE);
  mesh_.Put(lies);
  EXPECT_EQ(Check("10.91.1.1:40000", "10.91.1.77").reason, Reason::kSourceUnproven);
}

TEST_F(StreamSourceTest, WhatCannotBeANodeProxy) {
  const auto proxy = Proxy();
  for (const auto& change : std::vector<std::function<void(TestMesh::Workload&)>>{
           [](auto& w) { w.set_tunnel_protocol(istio::workload::HBONE); },
           [](auto& w) { w.set_native_tunnel(true); }, [](auto& w) { w.set_node("n2"); },
           [](auto& w) { w.set_node(""); }, [](auto& w) { w.set_cluster_id("other"); },
           [](auto& w) { w.set_network_mode(istio::workload::HOST_NETWORK); },
           [](auto& w) {
             w.set_namespace_("shop");
             w.set_service_account("front");
           },
           [](auto& w) {
             // In another trust domain the account has the same name, and may have the same holder.
             w.set_namespace_("shop");
             w.set_service_account("front");
             w.set_trust_domain("elsewhere");
           },
           [](auto& w) { w.mutable_application_tunnel()->set_port(1); }}) {
    auto changed = proxy;
    change(changed);
    mesh_.Put(changed);
    EXPECT_EQ(Check("10.91.1.1:40000").reason, Reason::kSourceUnproven) << changed.DebugString();
    if (changed.network_mode() == istio::workload::HOST_NETWORK) {  // found by no address
      mesh_.Put(proxy);
      continue;
    }
    // ... and beside the proxy it is one too many.
    changed.set_uid("Kubernetes//Pod/shop/beside");
    changed.set_name("beside");
    mesh_.Put(proxy).Put(changed);
    EXPECT_EQ(Check("10.91.1.1:40000").reason, Reason::kSourceUnproven) << changed.DebugString();
    mesh_.Remove(changed.uid());
    ASSERT_EQ(Check("10.91.1.1:40000").reason, Reason::kNone);
  }
  // What a user wrote down himself.
  auto entry = proxy;
  entry.set_uid("Kubernetes/networking.istio.io/WorkloadEntry/shop/entry");
  mesh_.Remove(proxy.uid());
  mesh_.Put(entry);
  EXPECT_EQ(Check("10.91.1.1:40000").reason, Reason::kSourceUnproven);
}

// A pod out of the mesh that has got a key is still not where the proxies are.
TEST_F(StreamSourceTest, OnlyFromTheAccountOfNodeProxies) {
  const auto check = [&](const char* ns, const char* account) {
    return CheckStreamSource(*mesh_.Snapshot(), "",
                             {model::Identity{"cluster.local", "shop", "front"}, Ip("10.91.1.250")},
                             "10.91.1.1:40000", {ns, account})
        .reason;
  };
  EXPECT_EQ(check("", ""), Reason::kNone) << "not known: any";
  EXPECT_EQ(check("qanat-system", ""), Reason::kNone);
  EXPECT_EQ(check("qanat-system", "ztunnel-n1"), Reason::kNone);
  EXPECT_EQ(check("elsewhere", "ztunnel-n1"), Reason::kSourceUnproven);
  EXPECT_EQ(check("qanat-system", "another"), Reason::kSourceUnproven);
  EXPECT_EQ(check("", "another"), Reason::kSourceUnproven);
}

TEST_F(StreamSourceTest, AnAddressThatIsAServicesToo) {
  mesh_.Put(TestMesh::MakeService("there", "10.91.1.250"));
  EXPECT_EQ(Check("10.91.1.1:40000").reason, Reason::kSourceUnproven);
}

TEST_F(StreamSourceTest, WithoutANodeNothingIsProven) {
  mesh_.Put(Pod("front-1", "10.91.1.1", ""));
  auto proxy = Proxy();
  proxy.set_node("");
  mesh_.Put(proxy);
  EXPECT_EQ(Check("10.91.1.1:40000").reason, Reason::kSourceUnproven);
}

}  // namespace
}  // namespace qanat::ztunnel
