// SPDX-License-Identifier: Apache-2.0
#include "common/hbone/placement.h"

#include <gtest/gtest.h>

#include <vector>

namespace qanat::hbone {
namespace {

using Loads = std::vector<TunnelLoad>;

TEST(Place, TogetherUpToAPoint) {
  EXPECT_EQ(Place({}), kNoTunnel);
  EXPECT_EQ(Place(Loads{{true, 3, 100, 0}, {true, 5, 100, 0}, {true, 4, 100, 0}}), 1u);
  EXPECT_EQ(Place(Loads{{true, 0, 100, 0}, {true, kTogether - 1, 100, 0}}), 1u);
  EXPECT_EQ(Place(Loads{{true, 0, 100, 0}, {true, kTogether, 100, 0}}), 0u);
  EXPECT_EQ(Place(Loads{{true, 50, 100, 0}, {true, 40, 100, 0}, {true, 60, 100, 0}}), 1u);
  EXPECT_EQ(Place(Loads{{true, 1, 100, 0}, {true, 2, 2, 0}}), 0u);
  EXPECT_EQ(Place(Loads{{false, 0, 100, 0}, {true, 99, 100, 0}}), 1u);
  EXPECT_EQ(Place(Loads{{true, 2, 2, 0}, {false, 0, 100, 0}}), kNoTunnel);
  EXPECT_EQ(Place(Loads{{true, 0, 0, 0}}), kNoTunnel);  // a peer that takes none
}

TEST(Place, AwayFromBulk) {
  EXPECT_EQ(Place(Loads{{true, 1, 100, 1 << 20}, {true, 90, 100, 0}}), 1u);
  // The quiet one is full: the least busy one.
  EXPECT_EQ(Place(Loads{{true, 1, 100, 9 << 20}, {true, 100, 100, 0}, {true, 7, 100, 2 << 20}}),
            2u);
}

TEST(WantsStripe, OnlyWhenAllAreBusy) {
  EXPECT_FALSE(WantsStripe({}, 0, 4));  // nobody wants anything
  EXPECT_FALSE(WantsStripe(Loads{{true, 100, 100, 0}}, 0, 4));
  EXPECT_TRUE(WantsStripe(Loads{{true, 1, 100, 1}}, 0, 4));
  EXPECT_FALSE(WantsStripe(Loads{{true, 1, 100, 1}}, 1, 4));  // one is on its way
  EXPECT_FALSE(WantsStripe(Loads{{true, 1, 100, 1}}, 0, 1));
  EXPECT_FALSE(WantsStripe(Loads{{true, 1, 100, 1}, {true, 0, 100, 0}}, 0, 4));
  EXPECT_TRUE(WantsStripe(Loads{{true, 1, 100, 1}, {false, 0, 100, 0}}, 0, 2));
  EXPECT_FALSE(WantsStripe(Loads{{true, 1, 9, 1}, {true, 1, 9, 1}, {true, 1, 9, 1}}, 0, 3));
}

TEST(DialsWanted, AsManyAsTheLineNeeds) {
  EXPECT_EQ(DialsWanted(0, 100, 0, 1000), 0u);
  EXPECT_EQ(DialsWanted(1, 100, 0, 1000), 1u);
  EXPECT_EQ(DialsWanted(100, 100, 0, 1000), 1u);
  EXPECT_EQ(DialsWanted(101, 100, 0, 1000), 2u);
  EXPECT_EQ(DialsWanted(5, 2, 1, 1000), 3u);
  EXPECT_EQ(DialsWanted(1000, 2, 1, 1000), 4u);  // not a storm
  EXPECT_EQ(DialsWanted(50, 2, 7, 8), 1u);
  EXPECT_EQ(DialsWanted(50, 2, 8, 8), 0u);
  // A peer that takes no streams is asked once, not again and again.
  EXPECT_EQ(DialsWanted(5, 0, 0, 1000), 1u);
  EXPECT_EQ(DialsWanted(5, 0, 1, 1000), 0u);
}

}  // namespace
}  // namespace qanat::hbone
