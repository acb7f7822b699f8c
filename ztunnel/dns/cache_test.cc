// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/dns/cache.h"

#include <gtest/gtest.h>

#include "common/dns/message.h"

namespace qanat::ztunnel::dns {
namespace {

namespace wire = ::qanat::dns;
using std::chrono::seconds;

std::vector<uint8_t> Answer(uint32_t ttl, wire::Rcode rcode = wire::Rcode::kNoError) {
  const auto query = wire::BuildQuery(1, *wire::WireOf("a.example"), wire::type::kA);
  const auto read = wire::ReadQuery(query);
  wire::AnswerBuilder builder(query, *read, rcode, false, 512);
  builder.AddAddress(net::IpAddress::V4(0x0a000001), ttl);
  return std::move(builder).Finish();
}
uint32_t TtlOf(const std::vector<uint8_t>& packet) {
  return wire::AddressesIn(packet, wire::type::kA).ttl;
}
const event::TimePoint kStart = event::TimePoint() + std::chrono::hours(1000);

TEST(DnsCache, TtlsCountDownToTheEnd) {
  Cache cache;
  cache.Put("k", Answer(60), kStart);
  EXPECT_EQ(cache.Fresh("k", kStart), Answer(60));
  EXPECT_EQ(TtlOf(*cache.Fresh("k", kStart + seconds(59))), 1u);
  EXPECT_FALSE(cache.Fresh("k", kStart + seconds(60)));
  EXPECT_FALSE(cache.Fresh("other", kStart));
  EXPECT_EQ(TtlOf(*cache.Stale("k", kStart + seconds(60))), 30u);
}

TEST(DnsCache, StaleOnesAreKeptForADay) {
  Cache cache;
  cache.Put("k", Answer(60), kStart);
  EXPECT_TRUE(cache.Stale("k", kStart + seconds(60 + 86400)));
  EXPECT_FALSE(cache.Stale("k", kStart + seconds(61 + 86400)));
  EXPECT_EQ(cache.size(), 0u);
  EXPECT_EQ(cache.bytes(), 0u);
}

TEST(DnsCache, AfterAFailureStaleOnesAreGivenAtOnceForAWhile) {
  Cache cache;
  cache.Put("k", Answer(60), kStart);
  const auto later = kStart + seconds(100);
  EXPECT_FALSE(cache.StaleAtOnce("k", later));
  cache.Failed("k", later);
  cache.Failed("never seen", later);
  EXPECT_TRUE(cache.StaleAtOnce("k", later + seconds(29)));
  EXPECT_FALSE(cache.StaleAtOnce("k", later + seconds(30)));
  EXPECT_FALSE(cache.StaleAtOnce("never seen", later));
  cache.Failed("k", later);
  cache.Put("k", Answer(10), later);  // the servers are back
  EXPECT_FALSE(cache.StaleAtOnce("k", later + seconds(1)));
}

TEST(DnsCache, ErrorsTakeNothingAway) {
  Cache cache;
  cache.Put("k", Answer(60), kStart);
  cache.Put("k", Answer(60, wire::Rcode::kServFail), kStart + seconds(70));
  EXPECT_TRUE(cache.Stale("k", kStart + seconds(70)));
}

TEST(DnsCache, LongTtlsAreCut) {
  Cache cache;
  cache.Put("k", Answer(0x7fffffff), kStart);
  EXPECT_TRUE(cache.Fresh("k", kStart + seconds(86399)));
  EXPECT_FALSE(cache.Fresh("k", kStart + seconds(86400)));
}

TEST(DnsCache, TheLeastRecentlyUsedGoes) {
  Cache cache(Cache::Limits{.bytes = 800});
  cache.Put("a", Answer(60), kStart);
  cache.Put("b", Answer(60), kStart);
  EXPECT_TRUE(cache.Fresh("a", kStart));
  cache.Put("c", Answer(60), kStart);
  EXPECT_LE(cache.bytes(), 800u);
  EXPECT_TRUE(cache.Fresh("a", kStart));
  EXPECT_FALSE(cache.Fresh("b", kStart));
  EXPECT_TRUE(cache.Fresh("c", kStart));
}

}  // namespace
}  // namespace qanat::ztunnel::dns
