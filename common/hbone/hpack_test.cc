// SPDX-License-Identifier: Apache-2.0
// The size of the peer's table (RFC 7541 4.2, RFC 9113 4.3.1), in a decoder and in a session.
#include "common/hbone/hpack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/hbone/saved_session.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using testing::RawPeer;
using testing::RunUntil;
using testing::Settle;

constexpr auto kOk = HpackDecoder::Outcome::kOk;
constexpr auto kMalformed = HpackDecoder::Outcome::kMalformed;

// ":method: GET" of the static table, and "a: b" as one that is to be remembered.
const std::string kGet = "\x82", kRemembered =
                                     "\x40\x01"
                                     "a"
                                     "\x01"
                                     "b";
const std::string kTo0 = "\x20", kTo30 = "\x3e", kTo40 = "\x3f\x09", kTo4096 = "\x3f\xe1\x1f",
                  kTo4097 = "\x3f\xe2\x1f";

HpackDecoder::Outcome Decode(HpackDecoder& decoder, const std::string& block) {
  Headers out;
  return decoder.Decode({reinterpret_cast<const uint8_t*>(block.data()), block.size()}, out);
}

TEST(HpackTableSize, BeforeTheAcknowledgement) {
  HpackDecoder decoder(1000);
  EXPECT_EQ(Decode(decoder, kRemembered), kOk);
  EXPECT_EQ(Decode(decoder, "\xbe"), kOk);  // the first of the dynamic table
  EXPECT_EQ(Decode(decoder, kTo0 + kGet), kOk);
  EXPECT_EQ(Decode(decoder, kTo4096 + kGet), kOk);
  EXPECT_EQ(Decode(decoder, kTo4097 + kGet), kMalformed);
}

TEST(HpackTableSize, AReductionHasToBeConfirmedFirst) {
  for (const std::string& block :
       {kGet, std::string(), kRemembered, kGet + kTo0, std::string("\xbe")}) {
    HpackDecoder decoder(1000);
    EXPECT_EQ(Decode(decoder, kRemembered), kOk);
    decoder.Allow(0);
    EXPECT_EQ(Decode(decoder, block), kMalformed);
  }
  HpackDecoder decoder(1000);
  decoder.Allow(0);
  EXPECT_EQ(Decode(decoder, kTo0 + kGet), kOk);
  EXPECT_EQ(Decode(decoder, kGet), kOk);  // once is enough
  EXPECT_EQ(Decode(decoder, kRemembered), kOk);
  EXPECT_EQ(Decode(decoder, "\xbe"), kMalformed) << "nothing is remembered";
}

TEST(HpackTableSize, NoMoreThanWeAllow) {
  for (const auto& [allowed, block] :
       {std::pair(0, kTo30), {0, kTo0 + kTo30}, {0, kTo4096}, {30, kTo40}}) {
    HpackDecoder decoder(1000);
    decoder.Allow(static_cast<uint32_t>(allowed));
    EXPECT_EQ(Decode(decoder, block + kGet), kMalformed) << allowed;
  }
  HpackDecoder later(1000);
  later.Allow(0);
  EXPECT_EQ(Decode(later, kTo0 + kGet), kOk);
  EXPECT_EQ(Decode(later, kTo30 + kGet), kMalformed);
}

// Lowered and raised between two blocks: the smallest, then the last (RFC 7541 4.2).
TEST(HpackTableSize, TwoUpdates) {
  const auto after = [](const std::string& block) {
    HpackDecoder decoder(1000);
    EXPECT_EQ(Decode(decoder, kRemembered), kOk);
    decoder.Allow(0);
    decoder.Allow(40);
    return Decode(decoder, block);
  };
  EXPECT_EQ(after(kTo0 + kTo40 + kGet), kOk);
  EXPECT_EQ(after(kTo0 + kTo30 + kGet), kOk);
  EXPECT_EQ(after(kTo0 + kGet), kOk);
  EXPECT_EQ(after(kTo40 + kGet), kMalformed) << "the smallest was left out";
  EXPECT_EQ(after(kGet), kMalformed);
  EXPECT_EQ(after(kTo0 + kTo4096 + kGet), kMalformed);
  EXPECT_EQ(after(kTo0 + kTo40 + "\xbe"), kMalformed) << "what was remembered is gone";
  EXPECT_EQ(after(kTo0 + kGet + kTo40), kMalformed) << "behind a field";
}

// Who has less already owes nothing, nor does a larger size ask for anything.
TEST(HpackTableSize, NothingIsOwed) {
  HpackDecoder decoder(1000);
  EXPECT_EQ(Decode(decoder, kTo0 + kGet), kOk);  // announced, and said ahead of the acknowledgement
  decoder.Allow(0);
  EXPECT_EQ(Decode(decoder, kGet), kOk);
  decoder.Allow(4096);
  EXPECT_EQ(Decode(decoder, kGet), kOk);
  EXPECT_EQ(Decode(decoder, kTo40 + kRemembered), kOk);
  EXPECT_EQ(Decode(decoder, "\xbe"), kOk);
}

TEST(HpackTableSize, GoesAlong) {
  const auto moved = [](const HpackDecoder& from) {
    SavedSession session;
    session.server = true;
    session.options.max_header_list = 65536;
    session.options.initial_stream_window = session.state.first_window = 1 << 20;
    session.state.settings_seen = true;
    session.table = from.Export();
    auto decoded = DecodeSession(EncodeSession(session));
    if (!decoded) {
      ADD_FAILURE() << decoded.error().message;
      return std::make_unique<HpackDecoder>(65536);
    }
    EXPECT_EQ(decoded->table, session.table);
    auto to = std::make_unique<HpackDecoder>(65536);
    EXPECT_TRUE(to->Import(decoded->table));
    EXPECT_EQ(to->Export(), session.table);
    return to;
  };
  for (const uint32_t allowed : {0u, 40u}) {
    HpackDecoder owes(65536);
    EXPECT_EQ(Decode(owes, kRemembered), kOk);
    owes.Allow(allowed);
    EXPECT_EQ(owes.Export().entries.size(), allowed == 0 ? 0u : 1u);
    EXPECT_EQ(Decode(*moved(owes), kGet), kMalformed);
    EXPECT_EQ(Decode(*moved(owes), kTo4096 + kGet), kMalformed);
    EXPECT_EQ(Decode(*moved(owes), kTo0 + kGet), kOk);
    EXPECT_EQ(Decode(owes, kTo0 + kGet), kOk);
    const auto paid = moved(owes);
    EXPECT_EQ(Decode(*paid, kGet), kOk);
    EXPECT_EQ(Decode(*paid, kTo4096 + kGet), kMalformed);
  }
  HpackDecoder unaware(65536);
  EXPECT_EQ(Decode(unaware, kRemembered), kOk);
  EXPECT_EQ(Decode(*moved(unaware), "\xbe"), kOk);
}

TEST(HpackTableSize, WhatCannotBe) {
  const auto possible = [](const HpackTable& table) { return HpackDecoder(1000).Import(table); };
  EXPECT_TRUE(possible({}));
  EXPECT_TRUE(possible({40, {{"a", "b"}}, 40, true}));
  EXPECT_FALSE(possible({4096, {}, 0, false}));
  EXPECT_FALSE(possible({40, {}, 0, true}));
  EXPECT_FALSE(possible({0, {}, 40, true}));
  EXPECT_FALSE(possible({4096, {}, 4096, true}));
}

class HpackSession : public ::testing::Test {
 protected:
  HpackSession() {
    auto [a, b] = net::MakePipe(loop_, 4 << 20);
    peer_ = std::make_unique<RawPeer>(std::move(a), false);
    server_ = std::make_unique<ServerSession>(
        std::move(b), SessionOptions{},
        ServerSession::Events{[](InboundConnect, Responder responder) { responder.Reject(503); },
                              nullptr});
    peer_->Hello(true);
  }
  bool Answered(uint32_t stream) {
    return RunUntil(loop_,
                    [&] {
                      return peer_->Find(kHeaders, stream) != nullptr || peer_->GoawayCode() >= 0;
                    }) &&
           peer_->GoawayCode() < 0;
  }
  const std::string connect_ = std::string("\x02\x07") + "CONNECT" + "\x01\x03" + "a:1";
  event::EventLoop loop_;
  std::unique_ptr<RawPeer> peer_;
  std::unique_ptr<ServerSession> server_;
};

TEST_F(HpackSession, TheTableIsThePeersUntilItAcknowledges) {
  peer_->SendFrame(kHeaders, kFlagEndHeaders, 1, connect_ + kRemembered);
  peer_->SendFrame(kHeaders, kFlagEndHeaders, 3, connect_ + "\xbe");
  EXPECT_TRUE(Answered(3));
  peer_->SendFrame(kSettings, kFlagAck, 0, "");
  peer_->SendFrame(kHeaders, kFlagEndHeaders, 5, kTo0 + connect_);
  peer_->SendFrame(kHeaders, kFlagEndHeaders, 7, connect_);
  EXPECT_TRUE(Answered(7));
  peer_->SendFrame(kHeaders, kFlagEndHeaders, 9, kTo30 + connect_);
  EXPECT_FALSE(Answered(9));
  EXPECT_EQ(peer_->GoawayCode(), static_cast<int64_t>(H2Error::kCompressionError));
}

TEST_F(HpackSession, TheBlockAfterTheAcknowledgementBeginsWithIt) {
  peer_->SendFrame(kSettings, kFlagAck, 0, "");
  peer_->SendFrame(kHeaders, kFlagEndHeaders, 1, connect_);
  EXPECT_FALSE(Answered(1));
  EXPECT_EQ(peer_->GoawayCode(), static_cast<int64_t>(H2Error::kCompressionError));
}

}  // namespace
}  // namespace qanat::hbone
