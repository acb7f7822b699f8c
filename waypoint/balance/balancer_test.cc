// SPDX-License-Identifier: Apache-2.0
#include "waypoint/balance/balancer.h"

#include <gtest/gtest.h>

#include <random>

namespace qanat::waypoint {
namespace {

class BalancerTest : public ::testing::Test {
 protected:
  std::vector<int> Count(LbPolicy policy, const std::vector<LbHost>& hosts, int n,
                         std::vector<size_t> avoid = {}, uint32_t attempts = 1) {
    std::vector<int> count(hosts.size());
    for (int i = 0; i < n; ++i) {
      auto pick = PickHost(policy, hosts, state_, [&] { return rng_(); }, avoid, attempts);
      if (pick) ++count[*pick];
    }
    return count;
  }
  std::mt19937_64 rng_{1};
  LbState state_;
};

TEST_F(BalancerTest, NothingUsable) {
  EXPECT_FALSE(PickHost(LbPolicy::kRandom, {}, state_, [] { return 0ull; }).has_value());
  std::vector<LbHost> sick = {{1, 0, false, 0}, {0, 0, true, 0}};
  for (LbPolicy p : {LbPolicy::kRandom, LbPolicy::kRoundRobin, LbPolicy::kLeastRequest}) {
    EXPECT_FALSE(PickHost(p, sick, state_, [] { return 0ull; }).has_value());
  }
}

TEST_F(BalancerTest, RoundRobinIsExact) {
  std::vector<LbHost> hosts(3);
  EXPECT_EQ(Count(LbPolicy::kRoundRobin, hosts, 300), (std::vector<int>{100, 100, 100}));
}

TEST_F(BalancerTest, WeightsAreKept) {
  std::vector<LbHost> hosts = {{3, 0, true, 0}, {1, 0, true, 0}};
  for (LbPolicy p : {LbPolicy::kRandom, LbPolicy::kRoundRobin}) {
    auto count = Count(p, hosts, 4000);
    EXPECT_NEAR(count[0], 3000, 150) << static_cast<int>(p);
  }
}

TEST_F(BalancerTest, LeastRequestAvoidsTheBusy) {
  std::vector<LbHost> hosts = {{1, 0, true, 10}, {1, 0, true, 0}};
  // With two hosts both are always compared, so the busy one is never taken.
  EXPECT_EQ(Count(LbPolicy::kLeastRequest, hosts, 100)[0], 0);
  std::vector<LbHost> many(10);
  many[4].active = 10;
  auto count = Count(LbPolicy::kLeastRequest, many, 1000);
  EXPECT_EQ(count[4], 0);
  for (size_t i = 0; i < many.size(); ++i) {
    if (i != 4) EXPECT_NEAR(count[i], 111, 50) << i;
  }
}

TEST_F(BalancerTest, LeastRequestEvensOutUnderLoad) {
  std::vector<LbHost> hosts(5);
  for (int i = 0; i < 500; ++i) {
    auto pick = PickHost(LbPolicy::kLeastRequest, hosts, state_, [&] { return rng_(); });
    ++hosts[*pick].active;
  }
  for (const LbHost& h : hosts) EXPECT_NEAR(static_cast<int>(h.active), 100, 4);
}

TEST_F(BalancerTest, PriorityOnlyWhenTheBetterIsGone) {
  std::vector<LbHost> hosts = {{1, 1, true, 0}, {1, 0, true, 100}, {1, 0, false, 0}};
  EXPECT_EQ(Count(LbPolicy::kLeastRequest, hosts, 50), (std::vector<int>{0, 50, 0}));
  hosts[1].healthy = false;
  EXPECT_EQ(Count(LbPolicy::kLeastRequest, hosts, 50), (std::vector<int>{50, 0, 0}));
}

TEST_F(BalancerTest, PreviousHostsAreAvoidedNotExcluded) {
  std::vector<LbHost> two(2);
  EXPECT_LT(Count(LbPolicy::kRandom, two, 1000, {0}, 5)[0], 50);
  std::vector<LbHost> one(1);
  EXPECT_EQ(Count(LbPolicy::kRandom, one, 10, {0}, 5)[0], 10);
}

}  // namespace
}  // namespace qanat::waypoint
