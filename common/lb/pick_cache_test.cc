// SPDX-License-Identifier: Apache-2.0
// The prepared pick against the one that looks at every endpoint, its model.
#include "common/lb/pick_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>

#include "common/lb/outliers.h"

namespace qanat::lb {
namespace {

using model::LbMode;
using model::LbScope;
using model::Reason;

struct Mesh {
  std::shared_ptr<model::Service> service = std::make_shared<model::Service>();
  EndpointListPtr endpoints;
  model::Workload source;
};

// Of everything some: ranks, networks, capacities (0 too), ports, health, addresses.
Mesh RandomMesh(std::mt19937& random, size_t count, uint32_t most_capacity) {
  const auto one_of = [&](auto... values) {
    const std::common_type_t<decltype(values)...> all[] = {values...};
    return all[random() % sizeof...(values)];
  };
  const auto place = [&](model::Workload& w) {
    w.locality = {one_of("eu", "us"), one_of("a", "b"), one_of("1", "2")};
    w.node = one_of("n1", "n2", "n3");
    w.cluster_id = one_of("c1", "c2");
    w.network = one_of("", "", "net2");
  };
  Mesh mesh;
  model::Service& service = *mesh.service;
  service.name = "backend";
  service.ns = "shop";
  service.hostname = "backend.shop.svc.cluster.local";
  service.ports = {{80, 8080}, {81, 0}};
  service.load_balancing.mode =
      one_of(LbMode::kUnspecified, LbMode::kFailover, LbMode::kFailover, LbMode::kStrict);
  std::vector<LbScope> preference;
  for (const LbScope scope : {LbScope::kNetwork, LbScope::kRegion, LbScope::kZone,
                              LbScope::kSubzone, LbScope::kNode, LbScope::kCluster}) {
    if (random() % 3 == 0) preference.push_back(scope);
  }
  service.load_balancing.routing_preference = preference;
  service.load_balancing.allow_unhealthy = random() % 4 == 0;
  place(mesh.source);
  auto list = std::make_shared<model::EndpointList>();
  for (size_t i = 0; i < count; ++i) {
    model::Workload workload;
    workload.uid = "w" + std::to_string(i);
    if (random() % 8 != 0) workload.addresses = {*net::IpAddress::Parse("10.0.0.1")};
    workload.capacity = random() % (most_capacity + 1);
    workload.healthy = random() % 5 != 0;
    place(workload);
    model::PortList ports;
    if (random() % 3 == 0) ports.push_back({80, 9090});
    workload.services = {{service.Key(), ports}};
    const model::PortList* kept = &workload.services[0].second;
    list->push_back({model::WorkloadPtr(std::move(workload)), kept});
  }
  mesh.endpoints = list;
  return mesh;
}

std::string Name(const Pick& pick) {
  return pick.reason == Reason::kNone
             ? pick.target.workload->uid.str() + ":" + std::to_string(pick.target.target_port)
             : std::string(ToString(pick.reason)) + " " + pick.detail;
}

Pick Slow(const Mesh& mesh, uint16_t port, const Random& random, const Avoid& avoid = {}) {
  return PickEndpoint(*mesh.service, *mesh.endpoints, mesh.source, port, {}, random, avoid);
}
Pick Fast(PickCache& cache, const Mesh& mesh, uint16_t port, const Random& random,
          const Avoid& avoid = {}) {
  return cache.PickEndpoint(mesh.service, mesh.endpoints, mesh.source, port, {}, random, avoid);
}

// Every sequence of random numbers once: the exact distribution, as parts of one whole. `base` is a
// multiple of every sum of capacities that can come up.
template <typename PickOnce>
std::map<std::string, double> Exactly(uint64_t base, size_t digits, const PickOnce& pick) {
  std::map<std::string, double> out;
  uint64_t all = 1;
  for (size_t i = 0; i < digits; ++i) all *= base;
  for (uint64_t sequence = 0; sequence < all; ++sequence) {
    uint64_t rest = sequence;
    const std::string name = Name(pick([&] {
      const uint64_t digit = rest % base;
      rest /= base;
      return digit;
    }));
    out[name] += 1.0 / static_cast<double>(all);
  }
  return out;
}

TEST(PickCache, TheSameDistributionExactly) {
  std::mt19937 random(3);
  size_t choices = 0;
  for (int round = 0; round < 400; ++round) {
    const Mesh mesh = RandomMesh(random, random() % 4, 1);  // sums up to 3
    PickCache cache(0);
    for (const uint16_t port : {80, 81, 82}) {
      const auto slow = Exactly(6, 3, [&](const Random& r) { return Slow(mesh, port, r); });
      const auto fast = Exactly(6, 3, [&](const Random& r) { return Fast(cache, mesh, port, r); });
      ASSERT_EQ(slow.size(), fast.size()) << round;
      choices += slow.size() - 1;
      for (const auto& [name, part] : slow) {
        ASSERT_TRUE(fast.contains(name)) << round << " " << name;
        ASSERT_NEAR(fast.at(name), part, 1e-9) << round << " " << name;
      }
    }
  }
  EXPECT_GT(choices, 20u);  // there was something to choose
}

TEST(PickCache, TheSameDistributionOfMany) {
  std::mt19937 random(4);
  constexpr int kN = 4000;
  for (int round = 0; round < 30; ++round) {
    const Mesh mesh = RandomMesh(random, 40 + random() % 40, 5);
    PickCache cache;
    std::mt19937_64 a(random()), b(random());
    std::map<std::string, int> slow, fast;
    for (int i = 0; i < kN; ++i) {
      ++slow[Name(Slow(mesh, 80, [&] { return a(); }))];
      ++fast[Name(Fast(cache, mesh, 80, [&] { return b(); }))];
    }
    for (const auto& [name, count] : slow) {
      const double p = static_cast<double>(count) / kN;
      const double sigma = std::sqrt(2 * kN * p * (1 - p)) + 1;
      ASSERT_NEAR(fast[name], count, 6 * sigma) << round << " " << name;
    }
    for (const auto& [name, count] : fast) {
      ASSERT_TRUE(slow.contains(name) || count < 12) << round << " " << name;
    }
  }
}

// What is tried or failing is left out by the same rules.
TEST(PickCache, TheSameWithWhatIsAvoided) {
  std::mt19937 random(5);
  size_t prepared = 0;
  for (int round = 0; round < 300; ++round) {
    const Mesh mesh = RandomMesh(random, random() % 4, 1);
    PickCache cache(0);
    Avoid avoid;
    if (random() % 2 == 0) avoid.tried = {"w" + std::to_string(random() % 4)};
    std::vector<std::string> keys;
    for (int i = 0; i < 4; ++i) {
      if (random() % 4 != 0) continue;
      for (const uint16_t port : {8080, 9090}) {
        keys.push_back(Outliers::EndpointKey("w" + std::to_string(i), port));
      }
    }
    if (!keys.empty()) {
      avoid.ejected = [&](const model::Workload& w, uint16_t port) {
        return std::find(keys.begin(), keys.end(), Outliers::EndpointKey(w.uid, port)) !=
               keys.end();
      };
      if (random() % 4 != 0) avoid.all_ejected = &keys;
    }
    const auto slow = Exactly(6, 3, [&](const Random& r) { return Slow(mesh, 80, r, avoid); });
    const auto fast =
        Exactly(6, 3, [&](const Random& r) { return Fast(cache, mesh, 80, r, avoid); });
    ASSERT_EQ(slow.size(), fast.size()) << round;
    for (const auto& [name, part] : slow) ASSERT_NEAR(fast.at(name), part, 1e-9) << name;
    prepared += cache.size();
  }
  EXPECT_GT(prepared, 50u);
}

TEST(PickCache, FollowsTheMesh) {
  std::mt19937 random(6);
  Mesh mesh = RandomMesh(random, 0, 1);
  mesh.service->load_balancing = {};
  const auto list = [](const char* prefix) {
    auto out = std::make_shared<model::EndpointList>();
    for (int i = 0; i < 100; ++i) {
      model::Workload workload;
      workload.uid = prefix + std::to_string(i);
      workload.addresses = {*net::IpAddress::Parse("10.0.0.1")};
      workload.capacity = 1;
      out->push_back({model::WorkloadPtr(std::move(workload)), nullptr});
    }
    return out;
  };
  mesh.source.network.clear();
  mesh.endpoints = list("a");
  PickCache cache;
  std::set<std::string> seen;
  size_t asked = 0;
  const auto pick = [&] {
    return Fast(cache, mesh, 80,
                [&] {
                  ++asked;
                  return random();
                })
        .target.workload->uid.str();
  };
  for (int i = 0; i < 2000; ++i) seen.insert(pick());
  EXPECT_EQ(seen.size(), 100u);
  EXPECT_EQ(asked, 2000u);  // one number a pick, where the model asks for a hundred
  EXPECT_EQ(cache.size(), 1u);
  mesh.endpoints = list("b");
  EXPECT_EQ(pick().front(), 'b');
  EXPECT_EQ(cache.size(), 1u);
  // Callers elsewhere have a choice of their own only where that matters.
  mesh.source.node = "other";
  pick();
  EXPECT_EQ(cache.size(), 1u);
  mesh.source.network = "net2";
  pick();
  EXPECT_EQ(cache.size(), 2u);
  cache.Sweep([&](const model::ServicePtr&) { return mesh.endpoints; });
  EXPECT_EQ(cache.size(), 2u);
  cache.Sweep([&](const model::ServicePtr&) -> EndpointListPtr { return nullptr; });
  EXPECT_EQ(cache.size(), 0u);
}

}  // namespace
}  // namespace qanat::lb
