// SPDX-License-Identifier: Apache-2.0
#include "common/dns/response.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qanat::dns {
namespace {

struct Rr {
  std::string owner;
  uint16_t type;
  uint32_t ttl;
  std::string data;
};

void Put16(std::vector<uint8_t>& out, uint32_t v) {
  out.push_back(static_cast<uint8_t>(v >> 8));
  out.push_back(static_cast<uint8_t>(v));
}

// An answer written by hand, so that the reader is not tested by our builder alone.
std::vector<uint8_t> Message(uint16_t flags, std::string_view host, uint16_t type,
                             const std::vector<Rr>& answers,
                             const std::vector<Rr>& authorities = {}) {
  std::vector<uint8_t> out;
  Put16(out, 7);
  Put16(out, flags);
  Put16(out, 1);
  Put16(out, static_cast<uint32_t>(answers.size()));
  Put16(out, static_cast<uint32_t>(authorities.size()));
  Put16(out, 0);
  const auto name = WireOf(host).value();
  out.insert(out.end(), name.begin(), name.end());
  Put16(out, type);
  Put16(out, 1);
  for (const auto* list : {&answers, &authorities}) {
    for (const Rr& rr : *list) {
      const auto owner = WireOf(rr.owner).value();
      out.insert(out.end(), owner.begin(), owner.end());
      Put16(out, rr.type);
      Put16(out, 1);
      Put16(out, rr.ttl >> 16);
      Put16(out, rr.ttl & 0xffff);
      Put16(out, static_cast<uint32_t>(rr.data.size()));
      out.insert(out.end(), rr.data.begin(), rr.data.end());
    }
  }
  return out;
}

const std::string kIp("\x0a\0\0\1", 4);
const std::string kSoa =
    std::string("\0\0", 2) + std::string(16, '\0') + std::string("\0\0\0\x3c", 4);

TEST(DnsResponse, AnswersItsQuestionOnly) {
  const auto query = BuildQuery(7, *WireOf("Www.example.com"), type::kA);
  const auto good = Message(0x8180, "www.EXAMPLE.com", type::kA, {{"www.example.com", 1, 60, kIp}});
  EXPECT_TRUE(Answers(query, good));
  auto bad = good;
  bad[1] = 8;
  EXPECT_FALSE(Answers(query, bad)) << "another id";
  bad = good;
  bad[2] &= 0x7f;
  EXPECT_FALSE(Answers(query, bad)) << "a query";
  EXPECT_FALSE(Answers(query, Message(0x8180, "www.example.org", type::kA, {})));
  EXPECT_FALSE(Answers(query, Message(0x8180, "www.example.com", type::kAaaa, {})));
  EXPECT_FALSE(Answers(query, Message(0xa180, "www.example.com", type::kA, {}))) << "opcode";
  std::vector<uint8_t> bare{0, 7, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0};  // FORMERR
  EXPECT_TRUE(Answers(query, bare));
  bare[3] = 0x80;
  EXPECT_FALSE(Answers(query, bare)) << "no error, no question";
  bare[3] = 0x83;
  EXPECT_FALSE(Answers(query, bare)) << "NXDOMAIN of what?";
  EXPECT_FALSE(Answers(query, {}));
}

TEST(DnsResponse, LifetimeIsTheLeastTtl) {
  const auto life = LifetimeOf(Message(0x8180, "a", 1, {{"a", 1, 60, kIp}, {"a", 1, 20, kIp}}));
  EXPECT_TRUE(life.cacheable);
  EXPECT_EQ(life.seconds, 20u);
  EXPECT_EQ(life.ttl_at.size(), 2u);
  EXPECT_FALSE(LifetimeOf(Message(0x8180, "a", 1, {{"a", 1, 0, kIp}})).cacheable);
  EXPECT_FALSE(LifetimeOf(Message(0x8180, "a", 1, {{"a", 1, 0x80000001, kIp}})).cacheable);
  EXPECT_FALSE(LifetimeOf(Message(0x8380, "a", 1, {{"a", 1, 60, kIp}})).cacheable) << "TC";
  EXPECT_FALSE(LifetimeOf(Message(0x8182, "a", 1, {{"a", 1, 60, kIp}})).cacheable) << "SERVFAIL";
}

TEST(DnsResponse, NegativeAnswersLiveAsTheirSoaSays) {
  const auto nxdomain = LifetimeOf(Message(0x8183, "a.b", 1, {}, {{"b", type::kSoa, 300, kSoa}}));
  EXPECT_TRUE(nxdomain.cacheable);
  EXPECT_EQ(nxdomain.seconds, 60u);  // the minimum of the SOA
  EXPECT_EQ(LifetimeOf(Message(0x8180, "a.b", 1, {}, {{"b", type::kSoa, 10, kSoa}})).seconds, 10u);
  EXPECT_FALSE(LifetimeOf(Message(0x8183, "a.b", 1, {})).cacheable);
  EXPECT_FALSE(LifetimeOf(Message(0x8180, "a.b", 1, {})).cacheable);
  // An alias that leads nowhere is no positive answer.
  EXPECT_FALSE(
      LifetimeOf(Message(0x8180, "a.b", 1, {{"a.b", type::kCname, 60, *WireOf("c")}})).cacheable);
}

TEST(DnsResponse, WhatCannotBeReadIsNotKept) {
  auto m = Message(0x8180, "a", 1, {{"a", 1, 60, kIp}});
  for (size_t size = 0; size < m.size(); ++size) {
    const auto life = LifetimeOf(Bytes(m).first(size));
    EXPECT_FALSE(life.cacheable) << size;
  }
  m[7] = 2;  // one record more than there is
  EXPECT_FALSE(LifetimeOf(m).cacheable);
}

TEST(DnsResponse, TtlsAge) {
  auto m = Message(0x8180, "a", 1, {{"a", 1, 60, kIp}, {"a", 1, 20, kIp}});
  const auto before = m;
  const auto life = LifetimeOf(m);
  AgeTtls(m, life.ttl_at, 15, 0);
  EXPECT_EQ(m[life.ttl_at[0] + 3], 45);
  EXPECT_EQ(m[life.ttl_at[1] + 3], 5);
  AgeTtls(m, life.ttl_at, 100, 1);
  EXPECT_EQ(m[life.ttl_at[0] + 3], 1);
  SetTtls(m, life.ttl_at, 60);
  m[life.ttl_at[1] + 3] = 20;
  EXPECT_EQ(m, before) << "nothing but TTLs was touched";
}

TEST(DnsResponse, AddressesThroughAliasesInAnyOrder) {
  const std::string b = *WireOf("b.example");
  const auto in_order = Message(0x8180, "a.example", 1,
                                {{"a.example", type::kCname, 50, b}, {"b.example", 1, 40, kIp}});
  const auto reversed = Message(0x8180, "a.example", 1,
                                {{"b.example", 1, 40, kIp}, {"A.EXAMPLE", type::kCname, 30, b}});
  for (const auto& m : {in_order, reversed}) {
    const auto found = AddressesIn(m, type::kA);
    ASSERT_EQ(found.ips.size(), 1u);
    EXPECT_EQ(found.ips[0].ToString(), "10.0.0.1");
    EXPECT_TRUE(AddressesIn(m, type::kAaaa).ips.empty());
  }
  EXPECT_EQ(AddressesIn(in_order, 1).ttl, 40u);
  EXPECT_EQ(AddressesIn(reversed, 1).ttl, 30u);
  // A ring of aliases, somebody else's address, a wrong size.
  EXPECT_TRUE(AddressesIn(Message(0x8180, "a", 1,
                                  {{"a", type::kCname, 9, *WireOf("b")},
                                   {"b", type::kCname, 9, *WireOf("a")}}),
                          1)
                  .ips.empty());
  EXPECT_TRUE(AddressesIn(Message(0x8180, "a", 1, {{"evil", 1, 9, kIp}}), 1).ips.empty());
  EXPECT_TRUE(AddressesIn(Message(0x8180, "a", 1, {{"a", 1, 9, "abc"}}), 1).ips.empty());
}

TEST(DnsResponse, TruncatedKeepsTheServersWord) {
  const auto query = BuildQuery(7, *WireOf("a"), type::kTxt, 600);
  const auto big = Message(0x8583, "a", type::kTxt, {{"a", type::kTxt, 9, std::string(800, 'x')}});
  const auto cut = Truncated(query, *ReadQuery(query), big);
  EXPECT_EQ(ReadHeader(cut)->flags, 0x8783);
  EXPECT_EQ(ReadHeader(cut)->answers, 0);
  EXPECT_EQ(ReadHeader(cut)->additionals, 1);
  EXPECT_TRUE(Answers(query, cut));
}

}  // namespace
}  // namespace qanat::dns
