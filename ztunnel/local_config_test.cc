// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/local_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "ztunnel/local_source.h"
#include "ztunnel/mesh_for_test.h"

namespace qanat::ztunnel {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

// Every field that the file can have.
constexpr const char* kEverything = R"(
workloads:
- uid: Kubernetes//Pod/shop/backend
  name: backend
  namespace: shop
  trustDomain: td
  serviceAccount: back
  network: n
  workloadIps: [10.0.0.2, "fd00::2"]
  protocol: HBONE
  workloadName: backend
  workloadType: job
  canonicalName: backend
  canonicalRevision: v2
  hostname: b.example
  node: n1
  clusterId: c
  nativeTunnel: true
  status: Unhealthy
  networkMode: Standard
  waypoint: {destination: n/10.96.0.9, hboneMtlsPort: 15009}
  networkGateway: {destination: shop/gw.example}
  applicationTunnel: {protocol: PROXY, port: 15088}
  locality: {region: r, zone: z, subzone: s}
  authorizationPolicies: [shop/strict]
  services:
    shop/backend.example: {80: 8080, 443: 8443}
  capacity: 7
services:
- name: backend
  namespace: shop
  hostname: backend.example
  vips: [n/10.96.0.10]
  cidrVips: ["n/10.99.0.0/16"]
  ports: {80: 8080, 443: 0}
  subjectAltNames: [spiffe://td/ns/shop/sa/back]
  waypoint: {destination: shop/wp.example}
  loadBalancer: {mode: Failover, healthPolicy: AllowAll, routingPreferences: [Network, Zone]}
  ipFamilies: Dual
  canonical: true
  visibility: Namespace
  endpoints: {passed: over}
policies:
- name: strict
  namespace: shop
  action: Deny
  scope: WorkloadSelector
  dryRun: true
  rules:
  - - - notPrincipals: [{Presence: []}]
        principals: [{Exact: a}, {Prefix: b}, {Suffix: c}]
        namespaces: [{Exact: x}]
        notNamespaces: [{Exact: y}]
        sourceIps: [10.0.0.0/8]
        notSourceIps: [10.0.0.1]
        destinationIps: ["fd00::/8"]
        notDestinationIps: ["fd00::1"]
        destinationPorts: [80]
        notDestinationPorts: [81]
        serviceAccounts: [{namespace: n, serviceAccount: s}]
        notServiceAccounts: [{namespace: n, serviceAccount: t}]
    - []
  - []
)";

state::SnapshotPtr Load(const LocalResources& resources) {
  state::MeshState state;
  for (const auto& [name, bytes] : resources.addresses) {
    EXPECT_TRUE(state.UpsertAddress(name, bytes)) << name;
  }
  for (const auto& [name, bytes] : resources.policies) {
    EXPECT_TRUE(state.UpsertAuthorization(name, bytes)) << name;
  }
  return state.Publish();
}

TEST(LocalConfig, Everything) {
  const auto parsed = ParseLocalConfig(kEverything);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
  const auto snapshot = Load(*parsed);
  const auto w = snapshot->WorkloadByUid("Kubernetes//Pod/shop/backend");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->identity(), (model::Identity{"td", "shop", "back"}));
  EXPECT_EQ(w->addresses, (model::AddressList{Ip("10.0.0.2"), Ip("fd00::2")}));
  EXPECT_EQ(w->protocol, model::TunnelProtocol::kHbone);
  EXPECT_EQ(w->type, model::WorkloadType::kJob);
  EXPECT_FALSE(w->healthy);
  EXPECT_TRUE(w->native_tunnel);
  EXPECT_EQ(w->waypoint->ToString(), "n/10.96.0.9:15009");
  EXPECT_EQ(std::get<model::NamespacedHostname>(w->network_gateway->destination).hostname,
            "gw.example");
  EXPECT_EQ(w->network_gateway->hbone_port, 15008);
  EXPECT_EQ(w->application_tunnel, (model::ApplicationTunnel{true, 15088}));
  EXPECT_EQ(w->locality.zone, "z");
  EXPECT_THAT(w->authorization_policies.whole(), ElementsAre("shop/strict"));
  ASSERT_NE(w->PortsOf("shop/backend.example"), nullptr);
  EXPECT_EQ(w->PortsOf("shop/backend.example")->size(), 2u);
  EXPECT_EQ(w->capacity, 7u);
  EXPECT_EQ(w->canonical_revision + w->node + w->cluster_id + w->network, "v2n1cn");

  const auto s = snapshot->ServiceByKey("shop/backend.example");
  ASSERT_NE(s, nullptr);
  ASSERT_EQ(s->addresses.size(), 2u);
  EXPECT_TRUE(s->addresses[0].host);
  EXPECT_EQ(s->addresses[1].cidr.ToString(), "10.99.0.0/16");
  EXPECT_EQ(s->FindPort(80)->target_port, 8080);
  EXPECT_EQ(s->load_balancing.mode, model::LbMode::kFailover);
  EXPECT_THAT(s->load_balancing.routing_preference.whole(),
              ElementsAre(model::LbScope::kNetwork, model::LbScope::kZone));
  EXPECT_TRUE(s->load_balancing.allow_unhealthy && s->canonical && s->namespace_only);
  EXPECT_EQ(s->ip_families, model::IpFamilies::kDual);
  EXPECT_EQ(snapshot->EndpointsOf(*s).size(), 1u);

  const auto p = snapshot->PolicyByName("shop/strict");
  ASSERT_NE(p, nullptr);
  EXPECT_EQ(p->action, model::PolicyAction::kDeny);
  EXPECT_EQ(p->scope, model::PolicyScope::kSelector);
  EXPECT_TRUE(p->dry_run && p->problems.empty());
  ASSERT_EQ(p->rules.size(), 2u);
  EXPECT_EQ(p->rules[0].clauses.size(), 2u);
  const model::Match& m = p->rules[0].clauses[0].matches[0];
  EXPECT_EQ(m.principals.size(), 3u);
  EXPECT_EQ(m.not_principals[0].kind, model::StringMatch::Kind::kPresence);
  EXPECT_EQ(m.not_source_ips[0].block.length(), 32u);
  EXPECT_EQ(m.service_accounts[0].sa, "s");
  for (const size_t n :
       {m.namespaces.size(), m.not_namespaces.size(), m.source_ips.size(), m.destination_ips.size(),
        m.not_destination_ips.size(), m.destination_ports.size(), m.not_destination_ports.size(),
        m.not_service_accounts.size()}) {
    EXPECT_EQ(n, 1u);
  }
}

TEST(LocalConfig, NothingIsAnEmptyMesh) {
  for (const char* text : {"", "---\n", "{}", "workloads: []\npolicies:\n"}) {
    const auto parsed = ParseLocalConfig(text);
    ASSERT_TRUE(parsed.has_value()) << text;
    EXPECT_EQ(*parsed, LocalResources());
  }
}

// Each has one thing wrong; the message names the line and the thing.
TEST(LocalConfig, ErrorsNameTheLine) {
  const std::string workload = "workloads:\n- uid: u\n  name: n\n  namespace: s\n";  // 4 lines
  const std::string service = "services:\n- name: n\n  namespace: s\n  hostname: h\n";
  const std::string policy = "policies:\n- name: n\n  namespace: s\n  action: Allow\n";
  const struct {
    std::string text, line, what;
  } cases[] = {
      {"- a", "line 1", "expected a map"},
      {"workload: []", "line 1", "unknown field \"workload\""},
      {"workloads: {}", "line 1", "expected a list"},
      {"workloads:\n- uid: u\n  name: n\n", "line 2", "namespace is missing"},
      {workload + "  protocol: QUIC\n", "line 5", "HBONE, TCP"},
      {workload + "  workloadIps: [10.0.0.300]\n", "line 5", "IP addresses"},
      {workload + "  workloadIp: 1.2.3.4\n", "line 5", "unknown field \"workloadIp\""},
      {workload + "  nativeTunnel: yes\n", "line 5", "true or false"},
      {workload + "  capacity: -1\n", "line 5", "a number"},
      {workload + "  services: {s/h: {80: 70000}}\n", "line 5", "65535"},
      {workload + "  services: [s/h]\n", "line 5", "expected a map"},
      {workload + "  waypoint: {destination: nowhere}\n", "line 5", "namespace/hostname"},
      {workload + "  applicationTunnel: {protocol: HTTP}\n", "line 5", "PROXY, NONE"},
      {workload + "- uid: u\n  name: m\n  namespace: s\n", "line 5", "twice"},
      {service + "  vips: [10.96.0.10]\n", "line 5", "network/address"},
      {service + "  ports: {http: 80}\n", "line 5", "a service port"},
      {service + "  loadBalancer: {routingPreferences: [Planet]}\n", "line 5", "Region, Zone"},
      {policy + "  rules: []\n", "line 2", "scope is missing"},
      // Nothing written is not the same as nothing said.
      {policy + "  scope: Global\n  rules:\n", "line 6", "rules has no value"},
      {policy + "  scope: Global\n  rules:\n  - - - principals:\n        destinationPorts: [80]\n",
       "line 7", "principals has no value"},
      {workload + "  waypoint:\n", "line 5", "waypoint has no value"},
      {policy + "  scope: Global\n  rules:\n  - - - principal: []\n", "line 7", "unknown field"},
      {policy + "  scope: Global\n  rules:\n  - principals: []\n", "line 7", "list of lists"},
      {policy + "  scope: Global\n  rules:\n  - - - principals: [Presence]\n", "line 7", "map"},
      {policy + "  scope: Global\n  rules:\n  - - - principals: [{Exact: a, Prefix: b}]\n",
       "line 7", "one of Exact"},
      {policy + "  scope: Global\n  rules:\n  - - - destinationPorts: [65536]\n", "line 7",
       "65535"},
      {policy + "  scope: Global\n  rules:\n  - - - sourceIps: [10.0.0.0/33]\n", "line 7", "block"},
      {"a: [", "line", ""},
  };
  for (const auto& c : cases) {
    const auto parsed = ParseLocalConfig(c.text);
    ASSERT_FALSE(parsed.has_value()) << c.text;
    EXPECT_THAT(parsed.error().message, HasSubstr(c.line)) << c.text;
    EXPECT_THAT(parsed.error().message, HasSubstr(c.what)) << c.text;
  }
}

class LocalSourceTest : public testing::Test {
 protected:
  LocalSourceTest() : path(testing::TempDir() + "local-" + std::to_string(getpid()) + ".yaml") {}
  ~LocalSourceTest() override { std::filesystem::remove(path); }
  void Write(const std::string& text) {
    const std::string next = path + ".next";
    std::ofstream(next) << text;
    std::filesystem::rename(next, path);
  }
  static std::string Pod(const std::string& name) {
    return "- {uid: " + name + ", name: " + name + ", namespace: shop}\n";
  }
  void Run(int rounds = 50) {
    for (int i = 0; i < rounds; ++i) loop.RunOnce(std::chrono::milliseconds(5));
  }

  const std::string path;
  event::EventLoop loop;
  state::MeshState state;
  std::vector<std::string> changed;
  LocalSource source{loop,
                     path,
                     "",
                     state,
                     [this](const std::vector<std::string>& names) { changed = names; },
                     std::chrono::milliseconds(10)};
};

TEST_F(LocalSourceTest, IsReadAgainWhenItChanges) {
  EXPECT_FALSE(source.Start());  // no such file
  Write("workloads:\n" + Pod("a") + Pod("b") +
        "policies:\n- {name: p, namespace: shop, action: Deny, scope: Namespace}\n");
  Run();
  EXPECT_THAT(changed, UnorderedElementsAre("a", "b"));
  auto snapshot = state.Publish();
  EXPECT_NE(snapshot->WorkloadByUid("a"), nullptr);
  EXPECT_NE(snapshot->PolicyByName("shop/p"), nullptr);
  Write("workloads:\n" + Pod("b") + Pod("c"));
  Run();
  EXPECT_THAT(changed, UnorderedElementsAre("a", "c"));
  snapshot = state.Publish();
  EXPECT_EQ(snapshot->WorkloadByUid("a"), nullptr);
  EXPECT_NE(snapshot->WorkloadByUid("c"), nullptr);
  EXPECT_EQ(snapshot->PolicyByName("shop/p"), nullptr);
}

TEST_F(LocalSourceTest, ABrokenFileChangesNothing) {
  Write("workloads:\n" + Pod("a"));
  ASSERT_TRUE(source.Start());
  for (const char* broken : {"workloads: [", "workloads:\n- {uid: x}\n", "policies: 1"}) {
    changed.clear();
    const uint64_t before = source.failures();
    Write(broken);
    Run();
    EXPECT_EQ(source.failures(), before + 1) << broken;
    EXPECT_TRUE(changed.empty());
    EXPECT_NE(state.Publish()->WorkloadByUid("a"), nullptr);
  }
  std::filesystem::remove(path);  // nor does one that has gone
  Run();
  EXPECT_NE(state.Publish()->WorkloadByUid("a"), nullptr);
  Write("workloads:\n" + Pod("z"));
  Run();
  EXPECT_NE(state.Publish()->WorkloadByUid("z"), nullptr);
}

TEST(LocalSourceText, IsTakenOnce) {
  event::EventLoop loop;
  state::MeshState state;
  LocalSource good(loop, "", "workloads: [{uid: u, name: n, namespace: s}]", state, [](auto&) {});
  EXPECT_TRUE(good.Start());
  EXPECT_NE(state.Publish()->WorkloadByUid("u"), nullptr);
  LocalSource bad(loop, "", "nonsense", state, [](auto&) {});
  const Status status = bad.Start();
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().message, HasSubstr("LOCAL_XDS, line 1"));
}

}  // namespace
}  // namespace qanat::ztunnel
