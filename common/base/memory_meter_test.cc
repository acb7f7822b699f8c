// SPDX-License-Identifier: Apache-2.0
#include "common/base/memory_meter.h"

#include <gtest/gtest.h>

#include <optional>

namespace qanat {
namespace {

TEST(MemoryMeter, SumsWhatIsHeld) {
  MemoryMeter loop, pod;
  MemoryCharge first(loop);
  std::optional<MemoryCharge> second(loop);
  first.Set(100);
  second->Set(30);
  EXPECT_EQ(loop.held(), 130u);
  first.ChargeTo(&pod);  // with what it has already
  EXPECT_EQ(pod.held(), 100u);
  first.Set(250);
  first.Set(40);
  EXPECT_EQ(loop.held(), 70u);
  EXPECT_EQ(pod.held(), 40u);
  first.ChargeTo(nullptr);
  EXPECT_EQ(pod.held(), 0u);
  EXPECT_EQ(loop.held(), 70u);
  second.reset();
  EXPECT_EQ(loop.held(), 40u);
}

TEST(MemoryMeter, RingsOnce) {
  MemoryMeter meter;
  int rung = 0;
  meter.OnAlarm([&] { ++rung; });
  MemoryCharge charge(meter);
  charge.Set(1000);
  EXPECT_EQ(rung, 0);
  meter.SetAlarm(2000);
  charge.Set(2000);
  EXPECT_EQ(rung, 0);
  charge.Set(2001);
  charge.Set(5000);
  EXPECT_EQ(rung, 1);
  meter.SetAlarm(6000);
  charge.Set(10);
  charge.Set(6001);
  EXPECT_EQ(rung, 2);
}

}  // namespace
}  // namespace qanat
