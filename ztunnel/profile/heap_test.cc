// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/profile/heap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <thread>
#include <vector>

namespace qanat::ztunnel::profile {
namespace {

#if __has_feature(thread_sanitizer)

TEST(HeapTest, SaysThatThereIsNone) {
  EXPECT_FALSE(StartHeapProfile().has_value());
  const auto profile = HeapProfile();
  ASSERT_FALSE(profile.has_value());
  EXPECT_NE(profile.error().message, "");
}

#else

enum Value { kAllocObjects, kAllocBytes, kLiveObjects, kLiveBytes };

// Two functions whose bounds the linker knows: sections with such names have a start and an end.
extern "C" {
extern const char __start_qanat_heap_a[], __stop_qanat_heap_a[];
extern const char __start_qanat_heap_b[], __stop_qanat_heap_b[];
}
using Pieces = std::vector<std::unique_ptr<char[]> >;
__attribute__((noinline, section("qanat_heap_a"))) void HoldA(Pieces& into, size_t count,
                                                              size_t size) {
  for (size_t i = 0; i < count; ++i) into.push_back(std::unique_ptr<char[]>(new char[size]));
  asm volatile("" ::: "memory");
}
__attribute__((noinline, section("qanat_heap_b"))) void HoldB(Pieces& into, size_t count,
                                                              size_t size) {
  for (size_t i = 0; i < count; ++i) into.push_back(std::unique_ptr<char[]>(new char[size]));
  asm volatile("" ::: "memory");
}
struct Bounds {
  const char *begin, *end;
};
const Bounds kA{__start_qanat_heap_a, __stop_qanat_heap_a};
const Bounds kB{__start_qanat_heap_b, __stop_qanat_heap_b};

// Sums over the stacks that the function is in.
double Of(const Bounds& function, Value value) {
  const auto profile = HeapProfile();
  if (!profile) return -1;
  double sum = 0;
  for (const auto& [stack, values] : profile->stacks) {
    const bool in = std::any_of(stack.begin(), stack.end(), [&](uint64_t frame) {
      return frame > reinterpret_cast<uintptr_t>(function.begin) &&
             frame <= reinterpret_cast<uintptr_t>(function.end);
    });
    if (in) sum += static_cast<double>(values.at(value));
  }
  return sum;
}

class HeapTest : public ::testing::Test {
 protected:
  HeapTest() {
    const Status status = StartHeapProfile(16 << 10);  // the first rate of the process holds
    EXPECT_TRUE(status.has_value()) << (status ? "" : status.error().message);
  }
};

TEST_F(HeapTest, SaysWhoHoldsWhatIsLive) {
  Pieces a, b;
  a.reserve(10000);
  b.reserve(10000);
  // 20 MB and 5 MB: some 1,250 and 310 picked ones, which miss by some per cent.
  HoldA(a, 5000, 4000);
  HoldB(b, 50, 100'000);
  EXPECT_NEAR(Of(kA, kLiveBytes), 20e6, 5e6);
  EXPECT_NEAR(Of(kA, kLiveObjects), 5000, 1250);
  EXPECT_NEAR(Of(kB, kLiveBytes), 5e6, 1e6);
  EXPECT_NEAR(Of(kB, kLiveObjects), 50, 10);
  a.resize(2500);
  EXPECT_NEAR(Of(kA, kLiveBytes), 10e6, 3e6);
  EXPECT_NEAR(Of(kA, kAllocBytes), 20e6, 5e6);
  // By another thread, too.
  std::thread([&] { a.clear(); }).join();
  EXPECT_LT(Of(kA, kLiveBytes), 1);
  EXPECT_NEAR(Of(kA, kAllocObjects), 5000, 1250);
  EXPECT_NEAR(Of(kB, kLiveBytes), 5e6, 1e6);
}

TEST_F(HeapTest, WhileItIsOffNothingMoreIsRemembered) {
  Pieces before, meanwhile;
  before.reserve(50);  // clear() does not give the room of the list itself back
  meanwhile.reserve(50);
  const double held = Of(kB, kLiveBytes), made = Of(kB, kAllocBytes);
  HoldB(before, 50, 100'000);
  SetHeapSampling(false);
  EXPECT_FALSE(HeapSampling());
  HoldB(meanwhile, 50, 100'000);
  before.clear();  // what goes is noticed all the same
  SetHeapSampling(true);
  EXPECT_TRUE(HeapSampling());
  EXPECT_NEAR(Of(kB, kLiveBytes), held, 1);
  EXPECT_NEAR(Of(kB, kAllocBytes), made + 5e6, 1e6);
}

TEST_F(HeapTest, ManyThreadsAtOnce) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int round = 0; round < 20; ++round) {
        Pieces own;
        HoldB(own, 200, 1000 + static_cast<size_t>(round));
        if (round % 5 == 0) EXPECT_TRUE(HeapProfile().has_value());
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST_F(HeapTest, IsOfTheShapeOfGos) {
  const auto profile = HeapProfile();
  ASSERT_TRUE(profile.has_value());
  ASSERT_EQ(profile->types.size(), 4u);
  EXPECT_EQ(profile->types[3].kind, "inuse_space");
  EXPECT_EQ(profile->types[3].unit, "bytes");
  EXPECT_EQ(profile->shown, "inuse_space");
  EXPECT_EQ(profile->period, 16 << 10);
  EXPECT_FALSE(profile->mappings.empty());
}

#endif

}  // namespace
}  // namespace qanat::ztunnel::profile
