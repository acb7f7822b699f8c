// SPDX-License-Identifier: Apache-2.0
#include "common/metrics/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace qanat::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Shard, AScrapeShowsTheSumOfAll) {
  Registry registry;
  auto& family = registry.AddCounter("c", "C", {"l"});
  Shard<Counter> one(family), two(family);
  one.With({"a"})->Add(1);
  one.With({"a"})->Add(1);
  two.With({"a"})->Add(10);
  family.With({"a"})->Add(100);
  two.With({"b"})->Add(7);
  EXPECT_EQ(family.Value({"a"}), 112u);
  EXPECT_EQ(family.size(), 2u);
  EXPECT_THAT(registry.Render(), HasSubstr("c_total{l=\"a\"} 112\nc_total{l=\"b\"} 7\n"));
}

TEST(Shard, GaugesAndHistogramsAreSumsAsWell) {
  Registry registry;
  auto& gauge = registry.AddGauge("g", "G");
  Shard<Gauge> g1(gauge), g2(gauge);
  g1.Get().Add(5);
  g2.Get().Sub(2);
  std::vector<double> bounds;  // more than a cache line of them
  for (int i = 1; i <= 20; ++i) bounds.push_back(i);
  auto& histogram = registry.AddHistogram("h", "H", bounds);
  Shard<Histogram> h1(histogram), h2(histogram);
  h1.Get().Observe(1);
  h2.Get().Observe(12);
  h2.Get().Observe(100);
  const std::string text = registry.Render();
  EXPECT_THAT(text, HasSubstr("g 3\n"));
  EXPECT_THAT(text, HasSubstr("h_bucket{le=\"11\"} 1\nh_bucket{le=\"12\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("h_sum 113\nh_count 3\n"));
}

TEST(Shard, WhatIsCountedStaysWhenTheShardIsGone) {
  Registry registry;
  auto& family = registry.AddCounter("c", "C");
  {
    Shard<Counter>(family).Get().Add(3);
  }
  EXPECT_THAT(registry.Render(), HasSubstr("c_total 3\n"));
}

TEST(Shard, ARemovedSeriesIsGoneInAllOfThemAndComesBackFromNothing) {
  Registry registry;
  auto& family = registry.AddCounter("c", "C", {"pod"});
  Shard<Counter> one(family), two(family);
  const auto kept = one.With({"a"});
  kept->Add(1);
  two.With({"a"})->Add(1);
  two.With({"b"})->Add(1);
  EXPECT_EQ(family.RemoveIf([](const LabelValues& v) { return v[0] == "a"; }), 1u);
  EXPECT_TRUE(kept->removed());
  kept->Add(1);  // usable, and not shown
  EXPECT_THAT(registry.Render(), Not(HasSubstr("pod=\"a\"")));
  EXPECT_EQ(family.Value({"b"}), 1u);
  one.With({"a"})->Add(5);
  EXPECT_EQ(family.Value({"a"}), 5u);
  one.ForgetRemoved();
  EXPECT_EQ(one.With({"a"})->value(), 5u);
}

// First, middle and last of a list, in any order.
TEST(Shard, AnyOfTheCellsCanBeTakenOut) {
  for (unsigned mask = 0; mask < 32; ++mask) {
    Registry registry;
    auto& family = registry.AddCounter("c", "C", {"n"});
    Shard<Counter> shard(family);
    for (int i = 0; i < 5; ++i) shard.With({std::to_string(i)});
    family.RemoveIf([&](const LabelValues& v) { return (mask >> std::stoi(v[0]) & 1) != 0; });
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(family.Contains({std::to_string(i)}), (mask >> i & 1) == 0) << mask;
    }
  }
}

TEST(Shard, HowManySeriesThereAreAtMostIsKnownWithoutLooking) {
  Registry registry;
  auto& family = registry.AddCounter("c", "C", {"n"});
  Shard<Counter> one(family), two(family);
  for (int i = 0; i < 10; ++i) {
    one.With({std::to_string(i)});
    two.With({std::to_string(i)});
  }
  EXPECT_EQ(family.size_at_most(), 20u);
  EXPECT_EQ(family.size(), 10u);
  EXPECT_EQ(family.size_at_most(), 10u);
  two.With({"more"});
  EXPECT_EQ(family.size_at_most(), 11u);
}

// The writers make cells while others look and take out: nothing is lost, nothing breaks.
TEST(Shard, WritersScrapesAndRemovalsAtOnce) {
  Registry registry;
  auto& family = registry.AddCounter("c", "C", {"kind", "n"});
  constexpr int kWriters = 3, kRounds = 3000;
  std::vector<std::thread> writers;
  std::atomic<int> running{kWriters};
  for (int w = 0; w < kWriters; ++w) {
    writers.emplace_back([&] {
      Shard<Counter> shard(family);
      for (int i = 0; i < kRounds; ++i) {
        shard.With({"stays", std::to_string(i % 50)})->Add();
        shard.With({"goes", std::to_string(i)})->Add();
        if (i % 100 == 0) shard.ForgetRemoved();
      }
      --running;
    });
  }
  while (running > 0) {
    (void)registry.Render();
    family.RemoveIf([](const LabelValues& v) { return v[0] == "goes"; });
  }
  for (std::thread& writer : writers) writer.join();
  family.RemoveIf([](const LabelValues& v) { return v[0] == "goes"; });
  EXPECT_EQ(family.size(), 50u);
  uint64_t sum = 0;
  family.ForEach([&](const LabelValues&, uint64_t value) { sum += value; });
  EXPECT_EQ(sum, uint64_t{kWriters} * kRounds);
}

}  // namespace
}  // namespace qanat::metrics
