// SPDX-License-Identifier: Apache-2.0
#include "agent/direct/vips.h"

#include <gmock/gmock.h>

#include <cmath>
#include <map>
#include <random>

#include "agent/direct/kernel_table.h"
#include "common/lb/draw.h"
#include "common/lb/lb.h"
#include "common/route/mesh_for_test.h"
#include "common/route/outbound.h"

namespace qanat::agent::direct {
namespace {

namespace wire = istio::workload;
using route::At;
using route::Ip;
using route::IpBytes;
using route::TestMesh;
using testing::HasSubstr;

// frontend (serial 1) calls service 10.96.0.10 and fd96::10 with the pods that a test adds.
class World {
 public:
  World() {
    service = TestMesh::MakeService("backend", "10.96.0.10");
    service.add_addresses()->set_address(IpBytes("fd96::10"));
    frontend = TestMesh::MakePod("frontend", "10.91.1.5");
    frontend.add_addresses(IpBytes("fd91:1::5"));
    source.facts = TestMesh::LocalPod("frontend", "10.91.1.5");
    source.facts.addresses.push_back(Ip("fd91:1::5"));
    source.path_proved = source.proxy_reads_draws = true;
  }
  // 10.91.1.N and fd91:1::N; `here`: an enrolled pod of this node with serial N.
  TestMesh::Workload& Add(int n, bool here, uint32_t weight = 1) {
    const std::string name = "b" + std::to_string(n);
    TestMesh::Workload pod =
        TestMesh::MakePod(name, "10.91.1." + std::to_string(n), here ? "n1" : "n2");
    pod.add_addresses(IpBytes("fd91:1::" + std::to_string(n)));
    pod.mutable_capacity()->set_value(weight);
    TestMesh::Join(pod, service);
    if (here) {
      Member& member = members[name];
      member.facts = TestMesh::LocalPod(name, "10.91.1." + std::to_string(n));
      member.facts.addresses.push_back(Ip("fd91:1::" + std::to_string(n)));
      member.path_proved = true;
    }
    return pods[n] = pod;
  }
  state::SnapshotPtr Snapshot() {
    mesh.Put(frontend).Put(service);
    for (const auto& [n, pod] : pods) mesh.Put(pod);
    for (const auto& policy : policies) mesh.Put(policy);
    return mesh.Snapshot();
  }
  VipEntry Compile(const std::string& asked = "10.96.0.10:80") {
    return CompileVip(*Snapshot(), {}, source, At(asked),
                      [&](std::string_view ns, std::string_view name) -> PodHere {
                        const auto member = members.find(std::string(name));
                        if (ns != "shop" || member == members.end()) return {};
                        const int serial = std::stoi(std::string(name.substr(1)));
                        return {static_cast<uint32_t>(serial), &member->second};
                      });
  }

  TestMesh mesh;
  TestMesh::Service service;
  TestMesh::Workload frontend;
  std::map<int, TestMesh::Workload> pods;
  std::vector<TestMesh::Policy> policies;
  std::map<std::string, Member> members;
  Member source;
};

void ExpectProxyPicks(const VipEntry& entry, const std::string& why) {
  EXPECT_TRUE(entry.endpoints.empty());
  EXPECT_THAT(entry.why_not, HasSubstr(why));
  EXPECT_NE(entry.why_not, "");
}

uint32_t CodeOf(int n) { return lb::DrawCode("Kubernetes//Pod/shop/b" + std::to_string(n)); }

const VipEndpoint* Find(const VipEntry& entry, int n) {
  for (const auto& endpoint : entry.endpoints) {
    if (endpoint.code == CodeOf(n)) return &endpoint;
  }
  return nullptr;
}

TEST(Vips, NearEndpointsAreReachedAndFarOnesTold) {
  World world;
  world.Add(7, true);
  world.Add(8, false);
  for (const auto& [asked, near] : {std::pair{"10.96.0.10:80", "10.91.1.7:8080"},
                                    std::pair{"[fd96::10]:80", "[fd91:1::7]:8080"}}) {
    const VipEntry entry = world.Compile(asked);
    ASSERT_EQ(entry.endpoints.size(), 2u) << entry.why_not;
    EXPECT_EQ(entry.endpoints.back().until, 2u);
    ASSERT_NE(Find(entry, 7), nullptr);
    EXPECT_EQ(Find(entry, 7)->destination, 7u);
    EXPECT_EQ(Find(entry, 7)->target, At(near));
    ASSERT_NE(Find(entry, 8), nullptr);
    EXPECT_EQ(Find(entry, 8)->destination, 0u);
    EXPECT_FALSE(Find(entry, 8)->target.is_set());
  }
}

TEST(Vips, OnlyOurProxyIsToldOfDraws) {
  World world;
  world.source.proxy_reads_draws = false;
  world.Add(7, true);
  world.Add(8, true);
  const VipEntry entry = world.Compile();
  ASSERT_EQ(entry.endpoints.size(), 2u) << entry.why_not;
  for (const auto& endpoint : entry.endpoints) {
    EXPECT_NE(endpoint.destination, 0u);
    EXPECT_EQ(endpoint.code, 0u);
  }
  world.Add(9, false);
  ExpectProxyPicks(world.Compile(), "not all of its endpoints");
  world.source.proxy_reads_draws = true;
  EXPECT_EQ(world.Compile().endpoints.size(), 3u);
}

TEST(Vips, WhatIsNotPlainIsTheProxys) {
  struct Row {
    const char* name;
    void (*change)(World&);
    const char* why;
    const char* asked = "10.96.0.10:80";
  };
  const Row rows[] = {
      {"no service there", [](World&) {}, "no service", "10.96.0.99:80"},
      {"no such port", [](World&) {}, "no endpoint", "10.96.0.10:81"},
      {"a pod's address", [](World&) {}, "address of", "10.91.1.7:80"},
      {"a waypoint",
       [](World& w) {
         auto waypoint = TestMesh::MakeService("waypoint", "10.96.0.20");
         w.mesh.Put(waypoint);
         *w.service.mutable_waypoint() = TestMesh::GatewayOf(waypoint);
       },
       "waypoint"},
      {"passthrough",
       [](World& w) {
         w.service.mutable_load_balancing()->set_mode(wire::LoadBalancing::PASSTHROUGH);
       },
       "where they are sent"},
      {"also not ready",
       [](World& w) {
         w.service.mutable_load_balancing()->set_health_policy(wire::LoadBalancing::ALLOW_ALL);
       },
       "not ready"},
      {"a block of addresses",
       [](World& w) {
         w.service.clear_addresses();
         auto* address = w.service.add_addresses();
         address->set_address(IpBytes("10.96.0.0"));
         address->set_length(24);
       },
       ""},
      {"only on other nodes", [](World& w) { w.members.clear(); }, "none of its endpoints"},
      {"not HBONE", [](World& w) { w.pods[7].set_tunnel_protocol(wire::NONE); }, "none of its"},
      {"another network", [](World& w) { w.pods[7].set_network("far"); }, "none of its"},
      {"the endpoint has a waypoint",
       [](World& w) {
         auto waypoint = TestMesh::MakeService("waypoint", "10.96.0.20");
         w.mesh.Put(waypoint);
         *w.pods[7].mutable_waypoint() = TestMesh::GatewayOf(waypoint);
       },
       "none of its"},
      {"a policy refuses",
       [](World& w) {
         w.policies.push_back(TestMesh::MakePolicy("deny", istio::security::DENY));
         w.policies.back().add_rules()->add_clauses()->add_matches()->add_destination_ports(8080);
       },
       "none of its"},
      {"it wants the proxy", [](World& w) { w.members["b7"].wish = Wish::kProxy; }, "none of its"},
      {"the source wants it", [](World& w) { w.source.wish = Wish::kProxy; }, "none of its"},
      {"its way is not proved", [](World& w) { w.members["b7"].path_proved = false; },
       "none of its"},
      {"not ready", [](World& w) { w.pods[7].set_status(wire::UNHEALTHY); }, "no endpoint"},
      {"weights that do not fit",
       [](World& w) {
         w.pods[7].mutable_capacity()->set_value(0xffffffff);
         w.Add(8, true);
       },
       "too large"},
      {"the family is missing there",
       [](World& w) {
         w.pods[7].clear_addresses();
         w.pods[7].add_addresses(IpBytes("10.91.1.7"));
       },
       "none of its", "[fd96::10]:80"},
      {"nobody knows the source", [](World& w) { w.source.facts.name = "other"; }, ""},
      {"the state of the last run", [](World& w) { w.mesh.SetFreshness(state::Freshness::kSaved); },
       "no control plane"},
      {"too many",
       [](World& w) {
         for (int n = 8; n < 16; ++n) w.Add(n, true);
       },
       "too many"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    World world;
    world.Add(7, true);
    ASSERT_EQ(world.Compile().endpoints.size(), 1u);
    row.change(world);
    ExpectProxyPicks(world.Compile(row.asked), row.why);
  }
}

TEST(Vips, TheCallerItselfIsToldToTheProxy) {
  World world;
  world.Add(7, true);
  world.Add(8, true);
  auto entry =
      CompileVip(*world.Snapshot(), {}, world.members["b7"], At("10.96.0.10:80"),
                 [&](std::string_view, std::string_view name) -> PodHere {
                   return {static_cast<uint32_t>(name[1] - '0'), &world.members[std::string(name)]};
                 });
  ExpectProxyPicks(entry, "not all");  // its proxy does not read draws
  world.members["b7"].proxy_reads_draws = true;
  entry =
      CompileVip(*world.Snapshot(), {}, world.members["b7"], At("10.96.0.10:80"),
                 [&](std::string_view, std::string_view name) -> PodHere {
                   return {static_cast<uint32_t>(name[1] - '0'), &world.members[std::string(name)]};
                 });
  ASSERT_EQ(entry.endpoints.size(), 2u) << entry.why_not;
  EXPECT_EQ(Find(entry, 7)->destination, 0u);
  EXPECT_EQ(Find(entry, 8)->destination, 8u);
}

TEST(Vips, APortByNameIsTheEndpointsOwn) {
  World world;
  world.service.mutable_ports(0)->set_target_port(0);
  auto& pod = world.Add(7, true);
  for (auto& [key, ports] : *pod.mutable_services()) ports.mutable_ports(0)->set_target_port(9090);
  const VipEntry entry = world.Compile();
  ASSERT_EQ(entry.endpoints.size(), 1u) << entry.why_not;
  EXPECT_EQ(entry.endpoints[0].target, At("10.91.1.7:9090"));
}

TEST(Vips, TheNearestAloneAreDrawn) {
  World world;
  auto& lb = *world.service.mutable_load_balancing();
  lb.set_mode(wire::LoadBalancing::FAILOVER);
  lb.add_routing_preference(wire::LoadBalancing::NODE);
  world.source.proxy_reads_draws = false;
  for (int n = 20; n < 40; ++n) world.Add(n, false);
  world.Add(7, true);
  const VipEntry entry = world.Compile();
  ASSERT_EQ(entry.endpoints.size(), 1u) << entry.why_not;
  EXPECT_EQ(entry.endpoints[0].destination, 7u);
}

// What the hook's arithmetic makes of the kernel's entry (vip.bpf.h), for every draw there is, is
// what the proxy's pick makes of its own; and what it tells the proxy leads there.
TEST(Vips, SharesAreThoseOfTheProxysPick) {
  std::mt19937 random(20261124);
  for (int round = 0; round < 40; ++round) {
    World world;
    const int count = 1 + static_cast<int>(random() % QANAT_VIP_ENDPOINTS);
    for (int n = 1; n <= count; ++n) world.Add(10 + n, n == 1 || random() % 2 == 0, random() % 5);
    world.pods[11].mutable_capacity()->set_value(1 + random() % 5);
    const VipEntry entry = world.Compile();
    ASSERT_FALSE(entry.endpoints.empty()) << entry.why_not;
    const qanat_vip vip = ToKernel(entry);
    std::map<uint32_t, uint32_t> drawn;  // by code
    for (uint32_t at = 0; at < vip.total; ++at) {
      uint32_t which = 0;
      for (const auto& endpoint : vip.endpoints)
        which += static_cast<uint32_t>(at >= endpoint.until);
      ASSERT_LT(which, vip.count);
      ++drawn[vip.endpoints[which].code];
    }
    uint32_t sum = 0;
    for (const auto& [n, pod] : world.pods) {
      const uint32_t weight = pod.capacity().value();
      EXPECT_EQ(drawn[CodeOf(n)], weight);
      sum += weight;
      if (weight == 0) continue;
      route::OutboundOptions options;
      options.drawn = CodeOf(n);
      const route::Route route = route::DecideOutbound(
          *world.Snapshot(), *world.Snapshot()->WorkloadByUid("Kubernetes//Pod/shop/frontend"),
          At("10.96.0.10:80"), [&] { return uint64_t{random()}; }, options);
      EXPECT_EQ(route.target, At("10.91.1." + std::to_string(n) + ":8080"));
    }
    EXPECT_EQ(vip.total, sum);
    // The proxy's own picks: the same shares, within five standard deviations.
    std::map<std::string, int> picked;
    const auto snapshot = world.Snapshot();
    const auto source = snapshot->WorkloadByUid("Kubernetes//Pod/shop/frontend");
    const int picks = 2000;
    std::mt19937_64 draws(round);
    for (int i = 0; i < picks; ++i) {
      ++picked[route::DecideOutbound(*snapshot, *source, At("10.96.0.10:80"), [&] {
                 return draws();
               }).target.ToString()];
    }
    for (const auto& [n, pod] : world.pods) {
      const double p = static_cast<double>(pod.capacity().value()) / sum;
      EXPECT_NEAR(picked["10.91.1." + std::to_string(n) + ":8080"], picks * p,
                  5 * std::sqrt(picks * p * (1 - p)) + 1e-9);
    }
  }
}

TEST(Vips, TheKernelsFormOfAnEntry) {
  VipEntry entry;
  entry.endpoints = {{3, 7, 5, At("10.91.1.7:8080")}, {4, 0, 6, {}}};
  const qanat_vip vip = ToKernel(entry);
  EXPECT_EQ(vip.total, 4u);
  EXPECT_EQ(vip.count, 2u);
  EXPECT_EQ(vip.endpoints[0].dst_serial, 7u);
  EXPECT_EQ(vip.endpoints[0].port, 8080);
  EXPECT_EQ(bpf::FromKernel(vip.endpoints[0].ip), Ip("10.91.1.7"));
  EXPECT_EQ(vip.endpoints[1].dst_serial, 0u);
  EXPECT_EQ(vip.endpoints[1].code, 6u);
  for (size_t i = 1; i < QANAT_VIP_ENDPOINTS; ++i) EXPECT_EQ(vip.endpoints[i].until, 4u);
  EXPECT_EQ(ToKernel(VipEntry{}).total, 0u);

  qanat_miss miss{};
  miss.key = {3, 9, 80, 4, 0};
  EXPECT_FALSE(VipOf(miss));
  miss.key.dst_serial = 0;
  miss.dst = bpf::ToKernel(Ip("fd96::10"));
  const auto key = VipOf(miss);
  ASSERT_TRUE(key);
  EXPECT_EQ(*key, (VipKey{3, At("[fd96::10]:80")}));
  EXPECT_EQ(ToKernel(*key).port, 80);
  EXPECT_EQ(ToKernel(*key).src_serial, 3u);
}

class VipTableTest : public ::testing::Test {
 protected:
  static VipKey Key(uint32_t source, int n) {
    return {source, net::SocketAddress(Ip("10.96.0." + std::to_string(n)), 80)};
  }
  // Even ones are drawn for; serial 9 is gone.
  VipTable::Compiling Compiling() {
    return [this](const VipKey& key) -> std::optional<VipEntry> {
      if (key.source == gone_) return std::nullopt;
      VipEntry entry;
      if (key.asked.ip().bytes().back() % 2 == 0 && !all_by_proxy_) {
        entry.endpoints.resize(1);
        entry.endpoints[0].until = weight_;
      }
      return entry;
    };
  }
  uint32_t gone_ = 9, weight_ = 1;
  bool all_by_proxy_ = false;
  VipTable table_{16};  // 14 entries
};

TEST_F(VipTableTest, AnswersAreWrittenAndKept) {
  auto changes = table_.Answer(Key(1, 2), Compiling());
  ASSERT_EQ(changes.put.size(), 1u);
  EXPECT_TRUE(changes.removed.empty());
  EXPECT_NE(table_.Find(Key(1, 2)), nullptr);
  table_.Answer(Key(1, 3), Compiling());
  EXPECT_EQ(table_.size(), 2u);
  EXPECT_EQ(table_.drawn_count(), 1u);
  changes = table_.Answer(Key(9, 2), Compiling());
  EXPECT_TRUE(changes.put.empty());
  EXPECT_EQ(changes.removed, std::vector{Key(9, 2)}) << "the question";
  EXPECT_EQ(table_.Find(Key(9, 2)), nullptr);
}

TEST_F(VipTableTest, WhatChangedIsWrittenAnew) {
  for (int n = 1; n <= 4; ++n) table_.Answer(Key(static_cast<uint32_t>(n), n), Compiling());
  auto changes = table_.Recompile(Compiling());
  EXPECT_TRUE(changes.put.empty() && changes.removed.empty() && !changes.tightened);
  weight_ = 2;
  changes = table_.Recompile(Compiling());
  EXPECT_EQ(changes.put.size(), 2u);
  EXPECT_FALSE(changes.tightened);
  gone_ = 1;
  changes = table_.Recompile(Compiling());
  EXPECT_EQ(changes.removed, std::vector{Key(1, 1)});
  all_by_proxy_ = true;
  changes = table_.Recompile(Compiling());
  EXPECT_EQ(changes.put.size(), 2u);
  EXPECT_TRUE(changes.tightened);
  EXPECT_EQ(table_.drawn_count(), 0u);
  all_by_proxy_ = false;
  changes = table_.Recompile(Compiling());
  EXPECT_EQ(changes.put.size(), 2u);
  EXPECT_FALSE(changes.tightened);
}

TEST_F(VipTableTest, AFullTableForgetsWhatTheProxyPicksAnyway) {
  for (int n = 1; n <= 14; ++n) table_.Answer(Key(1, n), Compiling());
  EXPECT_EQ(table_.size(), 14u);
  auto changes = table_.Answer(Key(1, 20), Compiling());
  EXPECT_EQ(changes.removed.size(), 7u);
  EXPECT_EQ(table_.size(), 8u);
  for (int n = 22; n <= 32; n += 2) table_.Answer(Key(1, n), Compiling());
  EXPECT_EQ(table_.size(), 14u);
  changes = table_.Answer(Key(1, 34), Compiling());
  EXPECT_EQ(changes.removed, std::vector{Key(1, 34)}) << "goes through the proxy, unremembered";
  EXPECT_EQ(table_.size(), 14u);
  EXPECT_EQ(table_.Answer(Key(1, 2), Compiling()).put.size(), 1u) << "one that is there";
}

}  // namespace
}  // namespace qanat::agent::direct
