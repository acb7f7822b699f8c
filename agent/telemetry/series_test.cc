// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/series.h"

#include <gtest/gtest.h>

#include <chrono>

namespace qanat::agent::telemetry {
namespace {

TEST(LogHistogram, QuantilesHaveTheOrderOfMagnitude) {
  LogHistogram h;
  EXPECT_EQ(h.Quantile(0.5), 0);
  for (uint64_t v = 1; v <= 1000; ++v) h.Add(v);
  EXPECT_NEAR(h.Quantile(0.5), 500, 20);
  EXPECT_NEAR(h.Quantile(0.99), 1000, 30);
  EXPECT_EQ(h.count(), 1000u);
  LogHistogram edges;
  edges.Add(0);
  edges.Add(~uint64_t{0});
  EXPECT_EQ(edges.Quantile(0.1), 0);
  EXPECT_EQ(edges.counts().back(), 1u) << "what is beyond the last bucket is in it";
}

SeriesKey Key(int number) {
  return {"source-" + std::to_string(number), "destination", "", Path::kProxied, false};
}

TEST(SeriesTable, TheRestIsOther) {
  SeriesTable table(3);
  const auto now = SeriesTable::TimePoint{} + std::chrono::hours(1);
  for (int i = 0; i < 100; ++i) ++table.For(Key(i), now).second.connections;
  EXPECT_EQ(table.size(), 4u);
  EXPECT_EQ(table.overflow(), 97u);
  const SeriesKey other{"other", "other", "", Path::kProxied, false};
  EXPECT_EQ(table.all().at(other).connections, 97u);
  SeriesKey direct = Key(50);
  direct.path = Path::kDirect;
  EXPECT_EQ(table.For(direct, now).first.source, "other");
  EXPECT_EQ(table.size(), 5u) << "paths are kept apart there too";
  EXPECT_EQ(table.For(Key(1), now).first.source, "source-1") << "who was there stays";
}

TEST(SeriesTable, IdleOnesGo) {
  SeriesTable table(3);
  auto now = SeriesTable::TimePoint{} + std::chrono::hours(1);
  table.For(Key(1), now);
  table.For(Key(2), now);
  now += SeriesTable::kIdle / 2;
  table.For(Key(2), now);
  std::vector<std::string> gone;
  const auto note = [&](const SeriesKey& key) { gone.push_back(key.source); };
  EXPECT_FALSE(table.Sweep(now, note));
  EXPECT_TRUE(table.Sweep(now + SeriesTable::kIdle / 2, note));
  EXPECT_EQ(gone, std::vector<std::string>{"source-1"});
  EXPECT_EQ(table.size(), 1u);
}

TEST(Series, WhatWasNeverEstablishedHasNoTimes) {
  Series series;
  qanat_record record{};
  Figures figures;
  figures.ending = Ending::kRefused;
  series.Add(record, figures);
  EXPECT_EQ(series.connections, 1u);
  EXPECT_EQ(series.established, 0u);
  EXPECT_EQ(series.connect.count() + series.retransmits.count(), 0u);
  EXPECT_EQ(series.endings[static_cast<size_t>(Ending::kRefused)], 1u);
}

}  // namespace
}  // namespace qanat::agent::telemetry
