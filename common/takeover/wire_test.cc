// SPDX-License-Identifier: Apache-2.0
#include "common/takeover/wire.h"

#include <fcntl.h>
#include <gmock/gmock.h>

#include "common/takeover/fields.h"

namespace qanat::takeover {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<Fd> Nulls(size_t count) {
  std::vector<Fd> out;
  for (size_t i = 0; i < count; ++i) out.emplace_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
  return out;
}

std::optional<Message> Through(std::vector<Part> parts, size_t* datagrams = nullptr) {
  Assembler assembler;
  if (datagrams != nullptr) *datagrams = parts.size();
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_LE(parts[i].fds.size(), kMaxFdsPerDatagram);
    auto message = assembler.Add(parts[i].bytes, std::move(parts[i].fds));
    if (!message) {
      ADD_FAILURE() << message.error().message;
      return std::nullopt;
    }
    EXPECT_EQ(message->has_value(), i + 1 == parts.size());
    if (*message) return std::move(**message);
  }
  return std::nullopt;
}

TEST(Wire, SmallAndLargeMessages) {
  for (const size_t bytes : {size_t{0}, size_t{1}, kMaxPart, kMaxPart + 1, size_t{1} << 20}) {
    for (const size_t fds : {size_t{0}, size_t{1}, kMaxFdsPerDatagram, size_t{600}}) {
      Message message{Kind::kState, 77, std::string(bytes, 'x'), Nulls(fds), false};
      if (bytes > 2) message.body[bytes - 2] = 'y';
      const std::string body(message.body);
      size_t datagrams = 0;
      const auto out = Through(Split(std::move(message)), &datagrams);
      ASSERT_TRUE(out.has_value());
      EXPECT_EQ(out->kind, Kind::kState);
      EXPECT_EQ(out->item, 77u);
      EXPECT_EQ(out->body, body);
      EXPECT_EQ(out->fds.size(), fds);
      EXPECT_FALSE(out->damaged);
      EXPECT_EQ(datagrams, std::max<size_t>({1, (bytes + kMaxPart - 1) / kMaxPart,
                                             (fds + kMaxFdsPerDatagram - 1) / kMaxFdsPerDatagram}));
    }
  }
}

TEST(Wire, DescriptorsThatWereLostOnTheWay) {
  auto parts = Split({Kind::kState, 1, "x", Nulls(3), false});
  parts[0].fds.pop_back();
  const auto out = Through(std::move(parts));
  ASSERT_TRUE(out.has_value());
  EXPECT_TRUE(out->damaged);
}

TEST(Wire, WhatIsRefused) {
  const auto error = [](std::string bytes, size_t fds = 0) {
    Assembler assembler;
    auto out = assembler.Add(bytes, Nulls(fds));
    return out ? std::string("taken") : out.error().message;
  };
  const std::string good(Split({Kind::kHello, 0, "body", {}, false})[0].bytes);
  EXPECT_EQ(error(good), "taken");
  EXPECT_THAT(error(""), HasSubstr("strange size"));
  EXPECT_THAT(error(good.substr(0, kHeadBytes - 1)), HasSubstr("strange size"));
  EXPECT_THAT(error(good + std::string(kMaxPart, 'x')), HasSubstr("strange size"));
  EXPECT_THAT(error("GET " + good.substr(4)), HasSubstr("not our protocol"));
  std::string newer = good;
  newer[5] = 2;
  EXPECT_THAT(error(newer), HasSubstr("version 2"));
  EXPECT_THAT(error(good, 1), HasSubstr("more descriptors than announced"));
  // Parts of two messages do not mix.
  auto first = Split({Kind::kState, 1, std::string(kMaxPart + 1, 'x'), {}, false});
  Assembler assembler;
  EXPECT_TRUE(assembler.Add(first[0].bytes, {}).has_value());
  EXPECT_THAT(assembler.Add(good, {}).error().message, HasSubstr("inside of another"));
}

TEST(Fields, ThereAndBack) {
  FieldWriter writer;
  writer.Bytes(1 | kCritical, "uid-1");
  writer.Number(2, 0x0102030405060708);
  writer.Number(3, 10);
  writer.Number(3, 20);
  writer.Bytes(4, "");
  const std::string bytes(writer.Take());
  const uint16_t known[] = {1, 2, 3, 4};
  const auto fields = Fields::Parse(bytes, known);
  ASSERT_TRUE(fields.has_value());
  EXPECT_EQ(fields->Bytes(1), "uid-1");
  EXPECT_EQ(fields->Number(2), 0x0102030405060708u);
  EXPECT_THAT(fields->Numbers(3), ElementsAre(10, 20));
  EXPECT_TRUE(fields->Has(4));
  EXPECT_FALSE(fields->Has(5));
  EXPECT_EQ(fields->Number(5, 42), 42u);
  EXPECT_EQ(fields->Number(1, 42), 42u);  // not a number
}

TEST(Fields, OfAnotherVersion) {
  FieldWriter writer;
  writer.Bytes(9, "new and harmless");
  writer.Bytes(1, "known");
  std::string bytes(writer.Take());
  const uint16_t known[] = {1};
  const auto fields = Fields::Parse(bytes, known);
  ASSERT_TRUE(fields.has_value());
  EXPECT_EQ(fields->Bytes(1), "known");
  writer.Bytes(10 | kCritical, "without this the item is another one");
  bytes += writer.Take();
  const auto refused = Fields::Parse(bytes, known);
  ASSERT_FALSE(refused.has_value());
  EXPECT_THAT(refused.error().message, HasSubstr("field 10"));
  for (size_t cut = 1; cut < bytes.size(); ++cut) {
    Fields::Parse(std::string_view(bytes).substr(0, cut), known);  // no crash
  }
  EXPECT_FALSE(Fields::Parse(std::string_view("\0\1\0\0\0", 5), known).has_value());
}

}  // namespace
}  // namespace qanat::takeover
