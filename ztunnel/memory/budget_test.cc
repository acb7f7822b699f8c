// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/memory/budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qanat::ztunnel {
namespace {

using std::chrono::milliseconds;
using testing::IsEmpty;
using enum MemoryLevel;

constexpr uint64_t kBudget = 1000;

struct Row {
  uint64_t used;
  MemoryLevel before;
  int full_ms;
  MemoryLevel after;
  uint64_t excess;
};

TEST(MemoryBudget, Levels) {
  const Row rows[] = {
      {0, kPlenty, 0, kPlenty, 0},
      {699, kPlenty, 0, kPlenty, 0},
      {700, kPlenty, 0, kScarce, 0},
      {849, kPlenty, 0, kScarce, 0},
      {850, kPlenty, 0, kFull, 0},  // at once, from nothing
      {949, kFull, 2999, kFull, 0},
      {950, kPlenty, 0, kFull, 200},
      {2000, kFull, 0, kFull, 1250},
      // Left below where they begin.
      {650, kScarce, 0, kScarce, 0},
      {649, kScarce, 0, kPlenty, 0},
      {800, kFull, 0, kFull, 0},
      {799, kFull, 0, kScarce, 0},
      {649, kFull, 0, kPlenty, 0},
      {799, kScarce, 0, kScarce, 0},
      // Nobody is refused for ever by those who have what there is.
      {860, kFull, 3000, kFull, 110},
      {810, kFull, 10000, kFull, 60},
      {799, kFull, 10000, kScarce, 0},
  };
  for (const Row& row : rows) {
    const auto verdict = JudgeMemory(row.used, kBudget, row.before, milliseconds(row.full_ms));
    EXPECT_EQ(verdict.level, row.after) << row.used;
    EXPECT_EQ(verdict.excess, row.excess) << row.used;
  }
  EXPECT_EQ(ScarceFrom(kBudget), 700u);
  EXPECT_EQ(ScarceFrom(uint64_t{1} << 60), (uint64_t{1} << 60) / 100 * 70 + 53);  // no overflow
}

// After as much has ended as is asked for, new ones are taken again, at once.
TEST(MemoryBudget, EndingTheExcessIsEnough) {
  for (uint64_t used = 800; used <= 3000; ++used) {
    const auto verdict = JudgeMemory(used, kBudget, kFull, milliseconds(5000));
    const auto then = JudgeMemory(used - verdict.excess, kBudget, verdict.level, milliseconds(0));
    EXPECT_LT(then.level, kFull) << used;
    EXPECT_EQ(then.excess, 0u) << used;
  }
}

std::vector<size_t> Ended(std::vector<size_t> sizes, uint64_t excess) {
  std::vector<MemoryHolder> all;
  for (const size_t size : sizes) all.push_back({size, 0, nullptr});
  std::vector<size_t> out;
  for (const MemoryHolder& one : LargestHolders(all, excess)) out.push_back(one.bytes);
  return out;
}

TEST(MemoryBudget, TheLargestEndFirst) {
  const std::vector<size_t> sizes = {50'000, 900'000, 20'000, 400'000, 15'000};
  EXPECT_THAT(Ended(sizes, 0), IsEmpty());
  EXPECT_THAT(Ended(sizes, 1), testing::ElementsAre(900'000));
  EXPECT_THAT(Ended(sizes, 900'000), testing::ElementsAre(900'000));
  EXPECT_THAT(Ended(sizes, 900'001), testing::ElementsAre(900'000, 400'000));
  // Whoever has next to nothing stays, whatever is missing.
  EXPECT_THAT(Ended(sizes, 1u << 30), testing::ElementsAre(900'000, 400'000, 50'000, 20'000));
  EXPECT_THAT(Ended({}, 1), IsEmpty());
}

TEST(MemoryBudget, SaysWhatIsFull) {
  MemoryMeter proxy, pod;
  EXPECT_EQ(MemoryFull(proxy, pod), "");
  proxy.SetLevel(kScarce);
  pod.SetLevel(kScarce);
  EXPECT_EQ(MemoryFull(proxy, pod), "");
  pod.SetLevel(kFull);
  EXPECT_THAT(MemoryFull(proxy, pod), testing::HasSubstr("QANAT_MAX_MEMORY_PER_POD"));
  proxy.SetLevel(kFull);
  EXPECT_THAT(MemoryFull(proxy, pod), testing::HasSubstr("QANAT_MEMORY_BUDGET"));
}

}  // namespace
}  // namespace qanat::ztunnel
