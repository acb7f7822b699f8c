// SPDX-License-Identifier: Apache-2.0
// What peers do to have us work or hold memory for nothing, each by name. The tunnel is ended with
// the code that RFC 9113 has for it, and the reason says which it was (a label of metrics).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/hbone/client_session.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_link.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using net::IoResult;
using testing::LinkEnd;
using testing::Party;
using testing::RawPeer;
using testing::RunUntil;
using testing::Settle;
using namespace std::chrono_literals;

std::string Bytes(std::initializer_list<int> bytes) {
  std::string out;
  for (int b : bytes) out.push_back(static_cast<char>(b));
  return out;
}
std::string U32(uint32_t v) {
  return Bytes({int(v >> 24), int(v >> 16 & 255), int(v >> 8 & 255), int(v & 255)});
}

class AbuseTest : public ::testing::Test {
 protected:
  void Start(SessionOptions options = {}, std::vector<std::pair<SettingId, uint32_t>> says = {}) {
    auto [a, b] = net::MakePipe(loop_, 4 << 20);
    peer_ = std::make_unique<RawPeer>(std::move(a), false);
    StartServer(std::move(b), options);
    peer_->Hello(true, std::move(says));
  }
  void StartServer(net::TransportPtr transport, const SessionOptions& options) {
    server_ = std::make_unique<ServerSession>(
        std::move(transport), options,
        ServerSession::Events{[this](const InboundConnect&, Responder responder) {
                                ++requests_;
                                if (!reject_.empty()) {
                                  responder.Reject(401, {{"why", reject_}});
                                } else if (hold_) {
                                  held_.push_back(std::move(responder));
                                } else {
                                  users_.push_back(std::make_unique<Party>(responder.Accept()));
                                }
                              },
                              [this](const CloseReason& r) { closed_ = r; }});
  }
  void ExpectEnd(H2Error code, Abuse abuse) {
    ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->GoawayCode() >= 0; }));
    EXPECT_EQ(peer_->GoawayCode(), static_cast<int64_t>(code));
    peer_->Close();
    ASSERT_TRUE(RunUntil(loop_, [&] { return closed_.has_value(); }));
    EXPECT_EQ(closed_->code, code);
    EXPECT_EQ(AbuseName(closed_->abuse), AbuseName(abuse)) << closed_->message;
    EXPECT_NE(closed_->message, "");
    EXPECT_EQ(server_->streams(), 0u);
  }
  void ExpectLife() {
    Settle(loop_);
    EXPECT_EQ(peer_->GoawayCode(), -1);
    EXPECT_FALSE(closed_);
  }

  event::EventLoop loop_;
  std::unique_ptr<RawPeer> peer_;
  std::unique_ptr<ServerSession> server_;
  std::vector<Responder> held_;
  std::vector<std::unique_ptr<Party>> users_;
  std::optional<CloseReason> closed_;
  size_t requests_ = 0;
  bool hold_ = false;
  std::string reject_;
};

// CVE-2023-44487.
TEST_F(AbuseTest, RapidReset) {
  Start();
  hold_ = true;
  for (uint32_t id = 1; id < 2000; id += 2) {
    peer_->SendConnect(id);
    peer_->SendFrame(kRstStream, 0, id, U32(8));
  }
  ExpectEnd(H2Error::kEnhanceYourCalm, Abuse::kRapidReset);
  EXPECT_LT(requests_, 600u);
}

// CVE-2025-8671: it is us who reset, for a mistake that the peer makes on purpose.
TEST_F(AbuseTest, MadeYouReset) {
  for (int mistake = 0; mistake < 6; ++mistake) {
    SCOPED_TRACE(mistake);
    server_.reset();
    closed_.reset();
    requests_ = 0;
    Start();
    hold_ = true;
    for (uint32_t id = 1; id < 3000; id += 2) {
      peer_->SendConnect(id);
      switch (mistake) {
        case 0: peer_->SendFrame(kWindowUpdate, 0, id, U32(0)); break;
        case 1: peer_->SendFrame(kWindowUpdate, 0, id, U32(0x7fffffff)); break;
        case 2: peer_->SendHeaders(id, {{"a", "b"}}); break;  // and not the end
        case 3: peer_->SendHeaders(id, {{":method", "CONNECT"}}, true); break;
        case 4:
          peer_->SendFrame(kData, kFlagEndStream, id, "");
          peer_->SendHeaders(id, {{"a", "b"}}, true);
          break;
        default:
          peer_->SendFrame(kData, kFlagEndStream, id, "");
          peer_->SendFrame(kData, 0, id, "x");
      }
    }
    ExpectEnd(H2Error::kEnhanceYourCalm, Abuse::kRapidReset);
    EXPECT_LT(requests_, 900u);
    held_.clear();
  }
}

TEST_F(AbuseTest, RefusedStreamsWithoutEnd) {
  SessionOptions options;
  options.max_concurrent_streams = 1;
  Start(options);
  for (uint32_t id = 1; id < 6000; id += 2) peer_->SendConnect(id);
  ExpectEnd(H2Error::kEnhanceYourCalm, Abuse::kRequestFlood);
  EXPECT_EQ(requests_, 1u);
}

// CVE-2024-27316 and its kin.
TEST_F(AbuseTest, ContinuationFlood) {
  Start();
  peer_->SendFrame(kHeaders, 0, 1, "");
  for (int i = 0; i < 100; ++i) peer_->SendFrame(kContinuation, 0, 1, "");
  ExpectEnd(H2Error::kEnhanceYourCalm, Abuse::kHeaderFlood);
}

TEST_F(AbuseTest, HeaderBlockWithoutEnd) {
  Start();
  peer_->SendFrame(kHeaders, 0, 1, std::string(60000, '\x82'));
  peer_->SendFrame(kContinuation, 0, 1, std::string(60000, '\x82'));
  ExpectEnd(H2Error::kEnhanceYourCalm, Abuse::kHeaderFlood);
}

TEST_F(AbuseTest, HpackBomb) {
  Start();
  // One entry of 4000 bytes in the dynamic table, then named again and again.
  std::string block = Bytes({0x40, 1, 'a', 0x7f, 0xa1, 0x1e}) + std::string(4000, 'x');
  block += std::string(20000, '\xbe');
  peer_->SendFrame(kHeaders, kFlagEndHeaders, 1, block);
  ExpectEnd(H2Error::kEnhanceYourCalm, Abuse::kHeaderBomb);
  EXPECT_EQ(requests_, 0u);
}

TEST_F(AbuseTest, SettingsFlood) {
  Start();
  for (int i = 0; i < 3000; ++i) peer_->SendFrame(kSettings, 0, 0, "");
  ExpectEnd(H2Error::kEnhanceYourCalm, Abuse::kSettingsFlood);
  EXPECT_LT(peer_->Count(kSettings), 1500u);  // answers
}

TEST_F(AbuseTest, PingFlood) {
  Start();
  for (int i = 0; i < 3000; ++i) peer_->SendFrame(kPing, 0, 0, "12345678");
  ExpectEnd(H2Error::kEnhanceYourCalm, Abuse::kPingFlood);
  EXPECT_LT(peer_->Count(kPing), 1500u);
}

TEST_F(AbuseTest, UselessFrames) {
  const std::function<void()> kinds[] = {
      [&] { peer_->SendFrame(kData, 0, 1, ""); },
      [&] { peer_->SendFrame(kPriority, 0, 1, U32(0) + Bytes({1})); },
      [&] { peer_->SendFrame(0x42, 0, 0, ""); },
      [&] { peer_->SendFrame(kRstStream, 0, 3, U32(8)); },
  };
  for (const auto& send : kinds) {
    server_.reset();
    closed_.reset();
    Start();
    peer_->SendConnect(1);
    peer_->SendConnect(3);
    for (int i = 0; i < 3000; ++i) send();
    ExpectEnd(H2Error::kEnhanceYourCalm, Abuse::kUselessFrames);
  }
}

// ---- window games

TEST_F(AbuseTest, WindowOverflowOfTheConnection) {
  Start();
  peer_->SendFrame(kWindowUpdate, 0, 0, U32(0x7fffffff));
  ExpectEnd(H2Error::kFlowControlError, Abuse::kWindowGames);
}

TEST_F(AbuseTest, WindowOverflowOfAllStreamsBySettings) {
  Start();
  peer_->SendConnect(1);
  peer_->SendFrame(kWindowUpdate, 0, 1, U32(0x7fff0000));
  peer_->SendFrame(kSettings, 0, 0, Bytes({0, 4}) + U32(0x7fffffff));
  ExpectEnd(H2Error::kFlowControlError, Abuse::kWindowGames);
}

TEST_F(AbuseTest, WindowOverflowOfAStreamEndsThatStreamOnly) {
  Start();
  peer_->SendConnect(1);
  peer_->SendConnect(3);
  peer_->SendFrame(kWindowUpdate, 0, 1, U32(0x7fffffff));
  ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->ResetCode(1) >= 0; }));
  EXPECT_EQ(peer_->ResetCode(1), static_cast<int64_t>(H2Error::kFlowControlError));
  ExpectLife();
  EXPECT_EQ(server_->streams(), 1u);
}

TEST_F(AbuseTest, DataBeyondTheWindowOfTheConnection) {
  SessionOptions options;
  options.connection_window = 65535;
  Start(options);
  peer_->SendConnect(1);
  peer_->SendFrame(kData, 0, 1, std::string(70000, 'x'));
  ExpectEnd(H2Error::kFlowControlError, Abuse::kWindowGames);
}

// A window that stays zero costs nothing but the stream, and no other stream notices.
TEST_F(AbuseTest, ZeroWindowsHoldNothing) {
  Start({}, {{kSettingInitialWindow, 0}});
  peer_->SendConnect(1);
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_.size() == 1; }));
  users_[0]->Send(std::string(1 << 20, 'x'));
  Settle(loop_);
  EXPECT_EQ(users_[0]->to_send.size(), 1u << 20);  // not a byte was taken
  peer_->SendConnect(3);
  peer_->SendFrame(kWindowUpdate, 0, 3, U32(1000));
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_.size() == 2; }));
  users_[1]->Send("passes");
  ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->Find(kData, 3) != nullptr; }));
  EXPECT_EQ(peer_->Find(kData, 1), nullptr);
  users_[0]->transport().Abort();
  ExpectLife();
  EXPECT_EQ(server_->streams(), 1u);
}

TEST_F(AbuseTest, WindowsOpenedByteByByte) {
  Start({}, {{kSettingInitialWindow, 1}});
  peer_->SendConnect(1);
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_.size() == 1; }));
  users_[0]->Send(std::string(100000, 'x'));
  size_t frames = 0;
  for (; frames < 20000 && peer_->GoawayCode() < 0; ++frames) {
    peer_->SendFrame(kWindowUpdate, 0, 1, U32(1));
    Settle(loop_, 3);
    peer_->frames.erase(std::remove_if(peer_->frames.begin(), peer_->frames.end(),
                                       [](auto& f) { return f.header.type == kData; }),
                        peer_->frames.end());
  }
  EXPECT_GT(frames, 900u);  // a peer may be short of room for a while
  ExpectEnd(H2Error::kEnhanceYourCalm, Abuse::kWindowGames);
}

TEST_F(AbuseTest, WindowUpdatesForNothing) {
  Start();
  peer_->SendConnect(1);
  for (int i = 0; i < 3000; ++i) peer_->SendFrame(kWindowUpdate, 0, i % 2, U32(1));
  ExpectEnd(H2Error::kEnhanceYourCalm, Abuse::kWindowGames);
}

// As Go does: one per 4 KiB of large frames, for the stream and for the connection.
TEST_F(AbuseTest, WindowUpdatesForPartsOfFramesAreNone) {
  Start({}, {{kSettingInitialWindow, 16 << 20}});
  peer_->SendFrame(kWindowUpdate, 0, 0, U32(32 << 20));
  peer_->SendConnect(1);
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_.size() == 1; }));
  users_[0]->Send(std::string(8 << 20, 'x'));
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_[0]->to_send.empty(); }));
  for (int i = 0; i < (8 << 20) / 4096; ++i) {
    peer_->SendFrame(kWindowUpdate, 0, 1, U32(4096));
    peer_->SendFrame(kWindowUpdate, 0, 0, U32(4096));
  }
  ExpectLife();
}

// One for each DATA frame of ours, stream and connection, is what a simple peer sends.
TEST_F(AbuseTest, WindowUpdatesForWhatWasSentAreNone) {
  Start();
  peer_->SendConnect(1);
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_.size() == 1; }));
  for (int i = 0; i < 3000; ++i) {
    users_[0]->Send("small");
    Settle(loop_, 2);
    peer_->SendFrame(kWindowUpdate, 0, 1, U32(5));
    peer_->SendFrame(kWindowUpdate, 0, 0, U32(5));
    Settle(loop_, 2);
    if (i % 100 == 99) peer_->frames.clear();
  }
  ExpectLife();
}

// ---- slow peers

TEST_F(AbuseTest, SlowPreface) {
  SessionOptions options;
  options.preface_timeout = 30ms;
  auto [a, b] = net::MakePipe(loop_);
  peer_ = std::make_unique<RawPeer>(std::move(a), false);
  StartServer(std::move(b), options);
  peer_->Send(kPreface.substr(0, 10));
  ExpectEnd(H2Error::kSettingsTimeout, Abuse::kSlowPeer);
}

TEST_F(AbuseTest, SlowHeaders) {
  SessionOptions options;
  options.preface_timeout = 60ms;
  Start(options);
  // Whole ones are no reason, however long the tunnel is quiet then.
  peer_->SendConnect(1);
  const auto end = std::chrono::steady_clock::now() + 120ms;
  while (std::chrono::steady_clock::now() < end) loop_.RunOnce(5ms);
  ExpectLife();
  peer_->SendFrame(kHeaders, 0, 3, "");  // and no CONTINUATION
  ExpectEnd(H2Error::kEnhanceYourCalm, Abuse::kSlowPeer);
}

TEST_F(AbuseTest, SlowHalfOfAHeadersFrame) {
  SessionOptions options;
  options.preface_timeout = 60ms;
  Start(options);
  uint8_t raw[kFrameHeaderSize];
  FormatFrameHeader({100, kHeaders, kFlagEndHeaders, 1}, raw);
  peer_->Send({reinterpret_cast<const char*>(raw), sizeof raw});
  peer_->Send("half");
  ExpectEnd(H2Error::kEnhanceYourCalm, Abuse::kSlowPeer);
}

TEST_F(AbuseTest, AnswersThatAreNotRead) {
  auto [a, b] = LinkEnd::Make(loop_, {.capacity = 64 << 10});
  SessionOptions options;
  options.ping_timeout = 100s;
  StartServer(std::move(b), options);
  reject_ = std::string(4000, 'x');
  ByteQueue out;
  HpackEncoder encoder;
  out.Append(kPreface);
  PutSettings(out, {});
  const std::string block(encoder.Encode({{":method", "CONNECT"}, {":authority", "a:1"}}));
  for (uint32_t id = 1; id < 4000 && !closed_; id += 2) {
    PutHeaders(out, id, block, false, kDefaultFrameSize);
    iovec part{const_cast<uint8_t*>(out.front().data()), out.size()};
    if (IoResult wrote = a->Write({&part, 1}); wrote.ok()) out.Consume(wrote.bytes);
    loop_.RunOnce(0ms);
  }
  ASSERT_TRUE(RunUntil(loop_, [&] { return closed_.has_value(); }));
  EXPECT_EQ(closed_->code, H2Error::kEnhanceYourCalm);
  EXPECT_EQ(AbuseName(closed_->abuse), AbuseName(Abuse::kSlowPeer)) << closed_->message;
  EXPECT_LT(requests_, 600u);
}

// ---- a server that does it to a client

TEST_F(AbuseTest, ClientsAreProtectedToo) {
  auto [a, b] = net::MakePipe(loop_, 4 << 20);
  peer_ = std::make_unique<RawPeer>(std::move(a), true);
  ClientSession client(
      std::move(b), {},
      ClientSession::Events{nullptr, [this](const CloseReason& r) { closed_ = r; }});
  peer_->Hello(false);
  std::optional<ClientSession::ConnectResult> result;
  auto pending =
      client.Connect({"x:1", {}}, [&](ClientSession::ConnectResult r) { result = std::move(r); });
  for (int i = 0; i < 3000; ++i) peer_->SendHeaders(1, {{":status", "103"}});
  ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->GoawayCode() >= 0; }));
  peer_->Close();
  ASSERT_TRUE(RunUntil(loop_, [&] { return closed_.has_value(); }));
  EXPECT_EQ(AbuseName(closed_->abuse), AbuseName(Abuse::kUselessFrames));
  EXPECT_TRUE(result && !*result);
}

}  // namespace
}  // namespace qanat::hbone
