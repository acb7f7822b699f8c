// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/sharing.h"

#include <gtest/gtest.h>

namespace qanat::ztunnel {
namespace {

using namespace std::chrono_literals;

hbone::PoolKey Own(uint32_t ip, uint32_t destination = 0x0a000002) {
  return {"spiffe://td/ns/a/sa/a",
          {"spiffe://td/ns/b/sa/c", "spiffe://td/ns/b/sa/b"},
          {net::IpAddress::V4(destination), 15008},
          net::IpAddress::V4(ip),
          ip};
}
hbone::PoolKey Key(uint32_t destination = 0x0a000002) {
  return Sharing::KeyOf(Own(1, destination));
}

const event::TimePoint kStart{1h};

TEST(SharingTest, KeysOfSiblingsAreOne) {
  const hbone::PoolKey one = Sharing::KeyOf(Own(1)), two = Sharing::KeyOf(Own(2));
  EXPECT_EQ(one, two);
  EXPECT_TRUE(one.shared);
  EXPECT_FALSE(one.source_ip.is_set());
  EXPECT_EQ(one.source_netns, 0u);
  EXPECT_NE(one, Sharing::KeyOf(Own(1, 0x0a000003)));
  hbone::PoolKey other = Own(1);
  other.source_identity = "spiffe://td/ns/a/sa/other";
  EXPECT_NE(one, Sharing::KeyOf(other));
}

TEST(SharingTest, OnlyWhereThePodGotItself) {
  Sharing sharing;
  EXPECT_FALSE(sharing.May(Key(), "one", kStart));
  EXPECT_TRUE(sharing.Learn(Key(), "one", true, kStart, kStart));
  EXPECT_TRUE(sharing.May(Key(), "one", kStart + 1s));
  EXPECT_FALSE(sharing.May(Key(), "two", kStart + 1s)) << "a sibling proves nothing for it";
  EXPECT_FALSE(sharing.May(Key(0x0a000003), "one", kStart + 1s));
  // What it may reach may have changed since.
  EXPECT_FALSE(sharing.May(Key(), "one", kStart + Sharing::kProofHolds));
  sharing.Learn(Key(), "two", true, kStart + 5min, kStart + 5min);
  EXPECT_FALSE(sharing.May(Key(), "one", kStart + 6min)) << "and renews nothing";
  EXPECT_TRUE(sharing.May(Key(), "two", kStart + 6min));
}

TEST(SharingTest, AProofIsAsOldAsItsTunnel) {
  Sharing sharing;
  EXPECT_FALSE(sharing.Learn(Key(), "one", true, kStart, kStart + Sharing::kProofHolds));
  EXPECT_FALSE(sharing.Learn(Key(), "one", true, event::TimePoint::min(), kStart));
  EXPECT_EQ(sharing.size(), 0u);
  // A stream now, on a tunnel of four minutes ago: another minute.
  EXPECT_TRUE(sharing.Learn(Key(), "one", true, kStart, kStart + 4min));
  EXPECT_TRUE(sharing.May(Key(), "one", kStart + 4min + 59s));
  EXPECT_FALSE(sharing.May(Key(), "one", kStart + 5min));
  // An older one beside a younger takes nothing away.
  EXPECT_TRUE(sharing.Learn(Key(), "one", true, kStart + 4min, kStart + 5min));
  EXPECT_TRUE(sharing.Learn(Key(), "one", true, kStart + 1min, kStart + 5min));
  EXPECT_TRUE(sharing.May(Key(), "one", kStart + 8min));
}

TEST(SharingTest, WhoCannotGetThereAnyMoreOrIsGone) {
  Sharing sharing;
  for (const char* pod : {"one", "two", "three"}) {
    sharing.Learn(Key(), pod, true, kStart, kStart);
  }
  sharing.Disprove(Key(), "one");
  sharing.ForgetPod("two");
  EXPECT_FALSE(sharing.May(Key(), "one", kStart));
  EXPECT_FALSE(sharing.May(Key(), "two", kStart));
  EXPECT_TRUE(sharing.May(Key(), "three", kStart));
  EXPECT_EQ(sharing.size(), 2u);
}

TEST(SharingTest, APeerThatIsOfAnotherKindNow) {
  Sharing sharing;
  sharing.Learn(Key(), "one", true, kStart, kStart);
  sharing.Learn(Key(), "two", true, kStart, kStart);
  sharing.Learn(Key(), "two", false, kStart, kStart + 1s);
  EXPECT_FALSE(sharing.May(Key(), "one", kStart + 1s));
  EXPECT_EQ(sharing.size(), 0u);
}

TEST(SharingTest, AFailureIsThePodsAndEachPauseIsTwiceTheLast) {
  Sharing sharing;
  const auto prove = [&](event::TimePoint now) {
    for (const char* pod : {"one", "two"}) sharing.Learn(Key(), pod, true, now, now);
  };
  event::TimePoint now = kStart;
  prove(now);
  for (auto pause : {1min, 2min, 4min, 8min, 16min, 32min, 60min, 60min}) {
    EXPECT_TRUE(sharing.May(Key(), "one", now));
    sharing.Failed(Key(), "one", now);
    sharing.Failed(Key(), "one", now + 1s);  // was on its way
    EXPECT_TRUE(sharing.Paused(Key(), "one", now));
    EXPECT_TRUE(sharing.May(Key(), "two", now)) << "its sibling's are good";
    prove(now + pause - 1s);  // its own tunnel goes on working
    sharing.Sweep(now + pause - 1s);
    EXPECT_FALSE(sharing.May(Key(), "one", now + pause - 1s));
    now += pause;
    EXPECT_FALSE(sharing.Paused(Key(), "one", now));
  }
  sharing.Taken(Key(), "one");
  sharing.Failed(Key(), "one", now);
  prove(now + 1min);
  EXPECT_TRUE(sharing.May(Key(), "one", now + 1min));
}

// A pod whose streams get no answer, or that gives them up, uses up what is its own.
TEST(SharingTest, APodsStreamsWithoutAnswerDoNotTouchItsSiblings) {
  Sharing sharing;
  sharing.Learn(Key(), "one", true, kStart, kStart);
  sharing.Learn(Key(), "two", true, kStart, kStart);
  int opened = 0;
  for (; opened < 10000 && sharing.May(Key(), "one", kStart); ++opened) {
    sharing.Opened(Key(), "one", kStart);
  }
  EXPECT_EQ(opened, Sharing::kOpen);
  EXPECT_TRUE(sharing.May(Key(), "two", kStart));
  EXPECT_TRUE(sharing.May(Key(), "one", kStart + 1s)) << "a few a second";
  for (int i = 0; i < 10000; ++i) {  // answered ones are no matter
    ASSERT_TRUE(sharing.May(Key(), "two", kStart));
    sharing.Opened(Key(), "two", kStart);
    sharing.Answered(Key(), "two");
  }
}

TEST(SharingTest, AllPodsTogetherStayBelowWhatReceiversBear) {
  Sharing sharing;
  double opened = 0;
  for (int second = 0; second < 10; ++second) {
    const event::TimePoint now = kStart + std::chrono::seconds(second);
    for (int pod = 0; pod < 100; ++pod) {
      const std::string uid = std::to_string(pod);
      sharing.Learn(Key(), uid, true, kStart, now);
      for (; sharing.May(Key(), uid, now); ++opened) sharing.Opened(Key(), uid, now);
    }
    EXPECT_LE(opened, 500 + 250 * second);
    EXPECT_GE(opened, Sharing::kAllOpen);
  }
  sharing.Learn(Key(0x0a000003), "1", true, kStart, kStart + 9s);
  EXPECT_TRUE(sharing.May(Key(0x0a000003), "1", kStart + 9s)) << "another destination";
}

TEST(SharingTest, TunnelsThatNothingGoesOverAreMadeLessAndLessOften) {
  Sharing sharing;
  EXPECT_FALSE(sharing.MayDial(Key(), kStart));
  sharing.Learn(Key(), "one", true, kStart, kStart);
  event::TimePoint now = kStart;
  for (auto pause : {10s, 20s, 40s, 80s, 160s, 300s, 300s}) {
    EXPECT_TRUE(sharing.MayDial(Key(), now));
    EXPECT_FALSE(sharing.MayDial(Key(), now + pause - 1s));
    now += pause;
  }
  EXPECT_TRUE(sharing.MayDial(Key(), now));
  sharing.Taken(Key(), "one");
  now += 300s;
  EXPECT_TRUE(sharing.MayDial(Key(), now));
  EXPECT_TRUE(sharing.MayDial(Key(), now + Sharing::kBetweenDials));
}

TEST(SharingTest, BoundedAndSweptOnceInAWhile) {
  Sharing sharing;
  sharing.Sweep(kStart);
  for (uint32_t i = 0; i < Sharing::kMost + 10; ++i) {
    sharing.Learn(Key(i / 100), std::to_string(i), true, kStart, kStart);
  }
  EXPECT_EQ(sharing.size(), Sharing::kMost);
  sharing.Sweep(kStart + Sharing::kProofHolds);
  EXPECT_EQ(sharing.size(), 0u);
  sharing.Learn(Key(), "one", true, kStart + 1min, kStart + 5min);
  sharing.Disprove(Key(), "one");
  sharing.Sweep(kStart + 5min + 59s);
  EXPECT_EQ(sharing.size(), 1u) << "not that often";
  sharing.Sweep(kStart + 6min);
  EXPECT_EQ(sharing.size(), 0u);
}

}  // namespace
}  // namespace qanat::ztunnel
