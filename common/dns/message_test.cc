// SPDX-License-Identifier: Apache-2.0
#include "common/dns/message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qanat::dns {
namespace {

std::vector<uint8_t> Raw(std::string_view text) { return {text.begin(), text.end()}; }
template <size_t N>
std::vector<uint8_t> Lit(const char (&text)[N]) {
  return Raw({text, N - 1});
}
net::IpAddress Ip(const char* text) { return net::IpAddress::Parse(text).value(); }

std::vector<uint8_t> Ask(std::string_view host, uint16_t type, bool edns = false) {
  auto out = BuildQuery(0x1234, WireOf(host).value(), type, 1232);
  if (!edns) {
    out.resize(out.size() - 11);
    out[11] = 0;
  }
  return out;
}

TEST(DnsName, FollowsPointersBackwards) {
  //                 0       4  5          12: www -> 5
  const auto m = Lit("\3com\0\7example\xc0\x00\3www\xc0\x05");
  std::string name;
  size_t at = 15;
  ASSERT_TRUE(ReadName(m, at, &name));
  EXPECT_EQ(at, m.size());
  EXPECT_EQ(HostOf(name), "www.example.com");
}

TEST(DnsName, RefusesLoopsForwardPointersAndRunsOffTheEnd) {
  for (const auto& [m, at] : std::vector<std::pair<std::vector<uint8_t>, size_t>>{
           {Lit("\xc0\x00"), 0},                // to itself
           {Lit("\1a\xc0\x00"), 0},             // to its own start
           {Lit("\xc0\x02\1a\0"), 0},           // forwards
           {Lit("\1a\xc0\x04\1b\xc0\x00"), 4},  // a and b in a ring
           {Lit("\5abc"), 0},                   // a label without its bytes
           {Lit("\1a"), 0},                     // no end
           {Lit("\1a\xc0"), 0},                 // half a pointer
           {Lit("\x41\1a\0"), 0},               // an extended label type
           {{}, 0},
       }) {
    size_t here = at;
    EXPECT_FALSE(ReadName(m, here, nullptr));
  }
}

// Each leads backwards, and all of them to a name: but who follows thousands does nothing else.
TEST(DnsName, RefusesLongChainsOfPointers) {
  std::vector<uint8_t> message = {1, 'a', 0};
  for (int i = 0; i < 40; ++i) {
    const size_t to = i == 0 ? 0 : message.size() - 2;
    message.push_back(static_cast<uint8_t>(0xc0 | (to >> 8)));
    message.push_back(static_cast<uint8_t>(to));
  }
  size_t at = 3 + 2 * 2;
  EXPECT_TRUE(ReadName(message, at, nullptr));
  at = 3 + 2 * 39;
  EXPECT_FALSE(ReadName(message, at, nullptr));
}

TEST(DnsName, EndsAt255Bytes) {
  std::string long_name;
  for (int i = 0; i < 3; ++i) long_name += "\x3f" + std::string(63, 'a');
  const auto named = [&](size_t last) {
    std::string wire = long_name + static_cast<char>(last) + std::string(last, 'b');
    wire.push_back('\0');
    return Raw(wire);
  };
  size_t at = 0;
  std::string out;
  EXPECT_TRUE(ReadName(named(61), at, &out));
  EXPECT_EQ(out.size(), 255u);
  at = 0;
  EXPECT_FALSE(ReadName(named(62), at, &out));
  // The same through a pointer: each part is short, the whole is not.
  auto m = named(61);
  const size_t second = m.size();
  for (const char c : std::string("\1x\xc0\0", 4)) m.push_back(static_cast<uint8_t>(c));
  at = second;
  EXPECT_FALSE(ReadName(m, at, &out));
}

TEST(DnsName, TextsThatAreNoHostNames) {
  EXPECT_EQ(HostOf(std::string("\3WwW\7example\0", 13)), "www.example");
  EXPECT_EQ(HostOf(std::string("\0", 1)), "");
  EXPECT_EQ(HostOf(std::string("\5_http\4_tcp\0", 12)), "_http._tcp");
  EXPECT_EQ(HostOf(std::string("\3a.b\0", 5)), std::nullopt);  // not a.b
  EXPECT_EQ(HostOf(std::string("\3a\0b\0", 5)), std::nullopt);
  EXPECT_EQ(HostOf(std::string("\2\xc3\xa4\0", 4)), std::nullopt);
  EXPECT_EQ(WireOf("a.b."), std::string("\1a\1b\0", 5));
  EXPECT_EQ(WireOf("a..b"), std::nullopt);
  EXPECT_EQ(WireOf("a.."), std::nullopt);
  EXPECT_EQ(WireOf(std::string(64, 'a')), std::nullopt);
  EXPECT_EQ(WireOf(""), std::string("\0", 1));
}

TEST(DnsMessage, ReadsAQueryWithEdns) {
  const auto m = Ask("Backend.shop", type::kAaaa, true);
  const auto query = ReadQuery(m);
  ASSERT_TRUE(query);
  EXPECT_EQ(query->header.id, 0x1234);
  EXPECT_TRUE(query->header.recursion_desired());
  EXPECT_EQ(HostOf(query->question.name), "backend.shop");
  EXPECT_EQ(query->question.type, type::kAaaa);
  ASSERT_TRUE(query->edns);
  EXPECT_EQ(query->UdpLimit(), 1232u);
  EXPECT_EQ(ReadQuery(Ask("a", type::kA))->UdpLimit(), 512u);
}

TEST(DnsMessage, RefusesBrokenQueries) {
  auto m = Ask("backend", type::kA, true);
  for (size_t size = 0; size < m.size(); ++size) {
    EXPECT_FALSE(ReadQuery(Bytes(m).first(size))) << size;
  }
  auto none = m;
  none[5] = 0;
  EXPECT_FALSE(ReadQuery(none));
  auto two = m;
  two[5] = 2;
  EXPECT_FALSE(ReadQuery(two));
  // A name that goes on in the header, whose bytes the answer has not.
  auto header = Lit("\1\0\1\0\0\1\0\0\0\0\0\0\1a\xc0\x00\0\1\0\1");
  EXPECT_FALSE(ReadQuery(header));
  auto opts = m;  // a second OPT record
  opts[11] = 2;
  opts.insert(opts.end(), m.end() - 11, m.end());
  EXPECT_FALSE(ReadQuery(opts));
}

TEST(DnsMessage, BuildsAnAnswerThroughAnAlias) {
  const auto m = Ask("Backend.Shop.svc", type::kA, true);
  const auto query = ReadQuery(m);
  AnswerBuilder builder(m, *query, Rcode::kNoError, true, query->UdpLimit());
  builder.AddCname(*WireOf("backend.shop"), 30);
  builder.AddAddress(Ip("10.0.0.1"), 30);
  builder.AddAddress(Ip("10.0.0.2"), 30);
  const auto out = std::move(builder).Finish();
  const auto header = ReadHeader(out);
  EXPECT_EQ(header->id, 0x1234);
  EXPECT_EQ(header->flags, 0x8580);  // QR AA RD RA
  EXPECT_EQ(header->answers, 3);
  EXPECT_EQ(header->additionals, 1);
  const auto question = ReadQuestion(out, *header);
  EXPECT_EQ(question->name, std::string("\7Backend\4Shop\3svc\0", 18));  // its case kept
  RecordReader records(out, *header, question->end);
  std::vector<std::string> seen;
  while (const auto record = records.Next()) {
    size_t at = record->name_at;
    std::string owner;
    EXPECT_TRUE(ReadName(out, at, &owner));
    seen.push_back(std::string(TypeName(record->type)) + " " + *HostOf(owner));
  }
  EXPECT_TRUE(records.ok());
  EXPECT_EQ(records.position(), out.size());
  EXPECT_THAT(seen, testing::ElementsAre("CNAME backend.shop.svc", "A backend.shop",
                                         "A backend.shop", "unknown "));
}

TEST(DnsMessage, CutsWhatDoesNotFitAndSaysSo) {
  const auto m = Ask("many.shop.svc.cluster.local", type::kAaaa);
  const auto query = ReadQuery(m);
  const auto build = [&](size_t limit) {
    AnswerBuilder builder(m, *query, Rcode::kNoError, true, limit);
    for (int i = 0; i < 100; ++i) builder.AddAddress(Ip("fd00::1"), 30);
    return std::move(builder).Finish();
  };
  const auto udp = build(query->UdpLimit());
  EXPECT_LE(udp.size(), 512u);
  EXPECT_TRUE(ReadHeader(udp)->truncated());
  EXPECT_EQ(ReadHeader(udp)->answers, (512 - m.size()) / 28);
  const auto tcp = build(kMaxMessage);
  EXPECT_FALSE(ReadHeader(tcp)->truncated());
  EXPECT_EQ(ReadHeader(tcp)->answers, 100);
}

TEST(DnsMessage, BadVersionIsAnExtendedRcode) {
  auto m = Ask("a", type::kA, true);
  m[m.size() - 5] = 1;  // the version
  const auto query = ReadQuery(m);
  ASSERT_TRUE(query && query->edns);
  EXPECT_EQ(query->edns->version, 1);
  const auto out = BadVersion(m, *query);
  EXPECT_EQ(ReadHeader(out)->rcode(), 0u);
  EXPECT_EQ(out[out.size() - 6], 1);  // 16 = 1 << 4
  EXPECT_EQ(out[out.size() - 5], 0);  // the version that is known here
}

TEST(DnsMessage, TypesWithoutANameAreOne) {
  EXPECT_EQ(TypeName(type::kHttps), "HTTPS");
  EXPECT_EQ(TypeName(65280), "unknown");
}

}  // namespace
}  // namespace qanat::dns
