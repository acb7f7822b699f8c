// SPDX-License-Identifier: Apache-2.0
#include "tools/loadgen/histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

namespace qanat::loadgen {
namespace {

TEST(HistogramTest, PercentilesAreWithinTwoPercent) {
  auto histogram = std::make_unique<Histogram>();
  std::mt19937_64 random(1);
  std::vector<uint64_t> values;
  for (int i = 0; i < 20000; ++i) {
    uint64_t v = uint64_t{1} << (random() % 35);
    v += random() % v;
    values.push_back(v);
    histogram->Add(v);
  }
  std::sort(values.begin(), values.end());
  for (double p : {0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    auto exact =
        static_cast<double>(values[std::min(values.size() - 1, static_cast<size_t>(p * 20000))]);
    auto got = static_cast<double>(histogram->Percentile(p));
    EXPECT_GE(got, exact) << p;
    EXPECT_LE(got, exact * 1.02 + 1) << p;
  }
}

TEST(HistogramTest, EmptyAndExtreme) {
  auto histogram = std::make_unique<Histogram>();
  EXPECT_EQ(histogram->Percentile(0.5), 0u);
  histogram->Add(~uint64_t{0});
  EXPECT_GT(histogram->Percentile(0.5), uint64_t{1} << 62);
}

}  // namespace
}  // namespace qanat::loadgen
