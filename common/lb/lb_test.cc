// SPDX-License-Identifier: Apache-2.0
#include "common/lb/lb.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <set>

namespace qanat::lb {
namespace {

using model::LbMode;
using model::LbScope;
using model::Reason;

struct Bed {
  model::Service service;
  std::vector<model::Endpoint> endpoints;
  model::Workload source;
  std::mt19937_64 engine{42};

  Bed() {
    service.name = "backend";
    service.ns = "shop";
    service.hostname = "backend.shop.svc.cluster.local";
    service.ports = {{80, 8080}};
    source.node = "n1";
    source.locality = {"eu", "a", "1"};
  }
  model::Workload& Add(const char* uid, const char* ip) {
    model::Workload workload;
    workload.uid = uid;
    workload.addresses = {*net::IpAddress::Parse(ip)};
    workload.services = {{service.Key(), {{80, 8080}}}};
    const model::PortList* ports = &workload.services[0].second;
    endpoints.push_back({model::WorkloadPtr(std::move(workload)), ports});
    return const_cast<model::Workload&>(*endpoints.back().workload);
  }
  Pick Once(uint16_t port = 80, net::IpAddress asked = {}, const Avoid& avoid = {}) {
    return PickEndpoint(
        service, endpoints, source, port, asked, [this] { return engine(); }, avoid);
  }
  std::map<std::string, int> Many(int n) {
    std::map<std::string, int> counts;
    for (int i = 0; i < n; ++i) ++counts[Once().target.workload->uid.str()];
    return counts;
  }
};

TEST(Lb, WeightedByCapacityWithinThreeSigma) {
  Bed bed;
  bed.Add("a", "10.0.0.1").capacity = 9;
  bed.Add("b", "10.0.0.2").capacity = 1;
  bed.Add("c", "10.0.0.3").capacity = 0;
  constexpr int kN = 20000;
  const auto counts = bed.Many(kN);
  const double sigma = std::sqrt(kN * 0.9 * 0.1);
  EXPECT_NEAR(counts.at("a"), kN * 0.9, 3 * sigma);
  EXPECT_FALSE(counts.contains("c"));
}

TEST(Lb, UnhealthyOnlyWhenAllowed) {
  Bed bed;
  bed.Add("a", "10.0.0.1").healthy = false;
  EXPECT_EQ(bed.Once().reason, Reason::kNoHealthyUpstream);
  bed.service.load_balancing.allow_unhealthy = true;
  EXPECT_EQ(bed.Once().target.workload->uid, "a");
}

TEST(Lb, Ports) {
  Bed bed;
  EXPECT_EQ(bed.Once(81).reason, Reason::kNoSuchPort);
  EXPECT_EQ(bed.Once(80).reason, Reason::kNoHealthyUpstream);
  bed.Add("a", "10.0.0.1");
  EXPECT_EQ(bed.Once(80).target.target_port, 8080);
  EXPECT_EQ(bed.Once(81).reason, Reason::kNoSuchPort);
  // A named target port: the service does not know the number, the endpoint does.
  bed.service.ports = {{80, 0}};
  EXPECT_EQ(bed.Once(80).target.target_port, 8080);
  bed.endpoints[0].ports = nullptr;
  EXPECT_EQ(bed.Once(80).reason, Reason::kNoSuchPort);
}

TEST(Lb, Strict) {
  Bed bed;
  bed.service.load_balancing = {{LbScope::kNode}, LbMode::kStrict, false};
  bed.Add("far", "10.0.0.1").node = "n2";
  EXPECT_EQ(bed.Once().reason, Reason::kNoHealthyUpstream);
  bed.Add("near", "10.0.0.2").node = "n1";
  EXPECT_EQ(bed.Many(100).size(), 1u);
  EXPECT_EQ(bed.Once().target.workload->uid, "near");
}

TEST(Lb, FailoverTakesTheNearestRankOnly) {
  Bed bed;
  bed.service.load_balancing = {
      {LbScope::kRegion, LbScope::kZone, LbScope::kSubzone}, LbMode::kFailover, false};
  bed.Add("region", "10.0.0.1").locality = {"eu", "b", "1"};
  bed.Add("zone1", "10.0.0.2").locality = {"eu", "a", "2"};
  bed.Add("zone2", "10.0.0.3").locality = {"eu", "a", "3"};
  // The zone matches but not the region before it: leading matches only.
  bed.Add("else", "10.0.0.4").locality = {"us", "a", "1"};
  const auto counts = bed.Many(400);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_TRUE(counts.contains("zone1"));
  EXPECT_TRUE(counts.contains("zone2"));
}

TEST(Lb, FailoverNetworkFirstRanksOtherNetworksToo) {
  Bed bed;
  bed.service.load_balancing = {{LbScope::kNetwork, LbScope::kRegion}, LbMode::kFailover, false};
  auto& far = bed.Add("far", "10.0.0.1");
  far.network = "n2";
  far.locality.region = "us";
  auto& near = bed.Add("near", "10.0.0.2");
  near.network = "n2";
  near.locality.region = "eu";
  EXPECT_EQ(bed.Many(50).begin()->first, "near");
  auto& home = bed.Add("home", "10.0.0.3");
  home.locality.region = "us";
  EXPECT_EQ(bed.Many(50).begin()->first, "home");
}

TEST(Lb, WhatWasTriedIsNotPickedAgain) {
  Bed bed;
  for (const char* uid : {"a", "b", "c"}) bed.Add(uid, "10.0.0.1");
  Avoid avoid;
  std::set<std::string> seen;
  for (int i = 0; i < 3; ++i) {
    const Pick pick = bed.Once(80, {}, avoid);
    ASSERT_EQ(pick.reason, Reason::kNone);
    EXPECT_TRUE(seen.insert(pick.target.workload->uid.str()).second);
    avoid.tried.push_back(pick.target.workload->uid.str());
  }
  EXPECT_EQ(bed.Once(80, {}, avoid).reason, Reason::kNoHealthyUpstream);
}

// STRICT stays strict: what is too far is not tried because the near one failed.
TEST(Lb, ATriedEndpointDoesNotWidenStrict) {
  Bed bed;
  bed.service.load_balancing = {{LbScope::kNode}, LbMode::kStrict, false};
  bed.Add("near", "10.0.0.1").node = "n1";
  bed.Add("far", "10.0.0.2").node = "n2";
  EXPECT_EQ(bed.Once(80, {}, {{"near"}, nullptr}).reason, Reason::kNoHealthyUpstream);
  bed.service.load_balancing.mode = LbMode::kFailover;
  EXPECT_EQ(bed.Once(80, {}, {{"near"}, nullptr}).target.workload->uid, "far");
}

TEST(Lb, FailingEndpointsAreLeftOutUpToHalf) {
  Bed bed;
  for (const char* uid : {"a", "b", "c", "d"}) bed.Add(uid, "10.0.0.1");
  std::set<std::string> failing = {"b"};
  Avoid avoid;
  avoid.ejected = [&](const model::Workload& w, uint16_t port) {
    EXPECT_EQ(port, 8080);
    return failing.contains(w.uid.str());
  };
  const auto seen = [&] {
    std::set<std::string> out;
    for (int i = 0; i < 400; ++i) out.insert(bed.Once(80, {}, avoid).target.workload->uid.str());
    return out;
  };
  EXPECT_EQ(seen(), (std::set<std::string>{"a", "c", "d"}));
  failing = {"a", "b", "c", "d"};
  EXPECT_EQ(seen(), (std::set<std::string>{"c", "d"}));  // never more than half
  // Nor the last one that is left to try.
  failing = {"d"};
  avoid.tried = {"a", "b", "c"};
  EXPECT_EQ(bed.Once(80, {}, avoid).target.workload->uid, "d");
  // What may not be used anyway does not count towards the half.
  avoid.tried = {};
  failing = {"a"};
  for (const size_t i : {1, 2, 3}) {
    const_cast<model::Workload&>(*bed.endpoints[i].workload).healthy = false;
  }
  EXPECT_EQ(seen(), (std::set<std::string>{"a"}));
}

TEST(Lb, AFailingNearEndpointGivesWayToAFarOne) {
  Bed bed;
  bed.service.load_balancing = {{LbScope::kNode}, LbMode::kFailover, false};
  bed.Add("near", "10.0.0.1").node = "n1";
  bed.Add("far", "10.0.0.2").node = "n2";
  Avoid avoid;
  avoid.ejected = [](const model::Workload& w, uint16_t) { return w.uid == "near"; };
  EXPECT_EQ(bed.Once(80, {}, avoid).target.workload->uid, "far");
}

TEST(Lb, AddressFamily) {
  model::Workload workload;
  workload.addresses = {*net::IpAddress::Parse("10.0.0.1"), *net::IpAddress::Parse("fd00::1")};
  const auto v6 = *net::IpAddress::Parse("fd96::10");
  EXPECT_TRUE(ChooseAddress(workload, v6).is_v6());
  EXPECT_TRUE(ChooseAddress(workload, *net::IpAddress::Parse("10.96.0.1")).is_v4());
  EXPECT_EQ(ChooseAddress(workload, workload.addresses[1]), workload.addresses[1]);
  EXPECT_TRUE(ChooseAddress(workload, {}, model::IpFamilies::kIpv6Only).is_v6());
  workload.addresses = {workload.addresses.front()};
  EXPECT_TRUE(ChooseAddress(workload, v6).is_v4());
}

TEST(Lb, Weighted) {
  const std::vector<uint32_t> weights = {0, 2, 1};
  EXPECT_EQ(PickWeighted(weights, 0), 1);
  EXPECT_EQ(PickWeighted(weights, 1), 1);
  EXPECT_EQ(PickWeighted(weights, 2), 2);
  EXPECT_EQ(PickWeighted(weights, 3), 1);
  EXPECT_EQ(PickWeighted(std::vector<uint32_t>{0, 0}, 5), -1);
}

}  // namespace
}  // namespace qanat::lb
