// SPDX-License-Identifier: Apache-2.0
#include "common/base/hash_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>

namespace qanat {
namespace {

using ::testing::ElementsAre;

TEST(HashIndex, IsEmptyAtFirst) {
  HashIndex<std::string> index;
  const auto any = [](const std::string&) { return true; };
  EXPECT_EQ(index.Find(0, any), nullptr);
  EXPECT_FALSE(index.Erase(7, any));
  EXPECT_TRUE(index.empty());
}

TEST(HashIndex, EqualOnesKeepTheirOrder) {
  HashIndex<std::string> index;
  const uint32_t last = UINT32_MAX;  // at home at the very end, so they go on at the beginning
  for (int i = 0; i < 9; ++i) index.Insert(last, std::string(1, static_cast<char>('a' + i)));
  for (uint32_t i = 0; i < 100; ++i) index.Insert(i << 24, "other");  // and the table grows
  ASSERT_TRUE(index.Erase(last, [](const std::string& s) { return s == "c"; }));
  index.Insert(last, "j");
  std::string met;
  index.ForEachWith(last, [&](const std::string& s) { met += s; });
  EXPECT_EQ(met, "abdefghij");
}

// Growing walks past none of them again.
TEST(HashIndex, ManyEqualOnesKeepTheirOrderToo) {
  HashIndex<int> index;
  for (int i = 0; i < 3000; ++i) index.Insert(UINT32_MAX - 7, i);
  int next = 0;
  index.ForEachWith(UINT32_MAX - 7, [&](int value) { EXPECT_EQ(value, next++); });
  EXPECT_EQ(next, 3000);
}

// Against a map, with few different hashes, 0 and the greatest among them, so that runs are long
// and go around the end.
TEST(HashIndex, IsAMap) {
  std::mt19937 random(4);
  for (int round = 0; round < 200; ++round) {
    HashIndex<int> index;
    std::multimap<uint32_t, int> expected;
    const uint32_t step = round % 2 == 0 ? UINT32_MAX / 3 : UINT32_MAX / 500;
    for (int i = 0; i < 400; ++i) {
      const uint32_t hash = random() % 4 * step;
      const auto [first, end] = expected.equal_range(hash);
      if (first == end || random() % 3 != 0) {
        index.Insert(hash, i);
        expected.emplace(hash, i);
      } else {
        const auto victim = std::next(first, static_cast<int>(random() % expected.count(hash)));
        const auto is = [&](int value) { return value == victim->second; };
        ASSERT_NE(index.Find(hash, is), nullptr);
        ASSERT_TRUE(index.Erase(hash, is));
        ASSERT_EQ(index.Find(hash, is), nullptr);
        expected.erase(victim);
      }
      ASSERT_EQ(index.size(), expected.size());
    }
    for (uint32_t n = 0; n < 4; ++n) {
      std::vector<int> met, want;
      index.ForEachWith(n * step, [&](int value) { met.push_back(value); });
      const auto [first, end] = expected.equal_range(n * step);
      for (auto it = first; it != end; ++it) want.push_back(it->second);
      ASSERT_EQ(met, want);
    }
    size_t all = 0;
    index.ForEach([&](int) { ++all; });
    EXPECT_EQ(all, expected.size());
  }
}

TEST(HashIndex, ACopyIsItsOwn) {
  HashIndex<int> index;
  index.Insert(1, 10);
  HashIndex<int> copy = index;
  copy.Insert(1, 11);
  *copy.Find(1, [](int value) { return value == 10; }) = 12;
  std::vector<int> first, second;
  index.ForEach([&](int value) { first.push_back(value); });
  copy.ForEachWith(1, [&](int value) { second.push_back(value); });
  EXPECT_THAT(first, ElementsAre(10));
  EXPECT_THAT(second, ElementsAre(12, 11));
}

}  // namespace
}  // namespace qanat
