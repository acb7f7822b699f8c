// SPDX-License-Identifier: Apache-2.0
// One end of ours against frames made by hand: what a wrong or hostile peer gets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/hbone/client_session.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using net::IoResult;
using ::testing::HasSubstr;
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
int64_t Code(H2Error e) { return static_cast<int64_t>(e); }

class ServerTest : public ::testing::Test {
 protected:
  void Start(SessionOptions options = {}, bool hello = true) {
    auto [a, b] = net::MakePipe(loop_, 4 << 20);
    peer_ = std::make_unique<RawPeer>(std::move(a), false);
    server_ = std::make_unique<ServerSession>(
        std::move(b), options,
        ServerSession::Events{[this](InboundConnect request, Responder responder) {
                                requests_.push_back(std::move(request));
                                if (hold_) {
                                  held_.push_back(std::move(responder));
                                } else {
                                  users_.push_back(std::make_unique<Party>(responder.Accept()));
                                }
                              },
                              [this](const CloseReason& r) { closed_ = r; }});
    if (hello) peer_->Hello(true);
  }
  // The whole session must end with this code.
  void ExpectGoaway(H2Error code) {
    ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->GoawayCode() >= 0; }));
    EXPECT_EQ(peer_->GoawayCode(), Code(code));
    peer_->Close();
    ASSERT_TRUE(RunUntil(loop_, [&] { return closed_.has_value(); }));
    EXPECT_EQ(closed_->code, code);
    EXPECT_NE(closed_->message, "");
  }
  void ExpectReset(uint32_t stream, H2Error code) {
    ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->ResetCode(stream) >= 0; }));
    EXPECT_EQ(peer_->ResetCode(stream), Code(code));
    EXPECT_EQ(peer_->GoawayCode(), -1);
  }
  std::string Status(uint32_t stream) {
    if (!RunUntil(loop_, [&] { return peer_->Find(kHeaders, stream) != nullptr; })) return "none";
    Headers headers;
    const auto& block = peer_->Find(kHeaders, stream)->payload;
    peer_->decoder.Decode({reinterpret_cast<const uint8_t*>(block.data()), block.size()}, headers);
    return std::string(Find(headers, ":status"));
  }

  event::EventLoop loop_;
  std::unique_ptr<RawPeer> peer_;
  std::unique_ptr<ServerSession> server_;
  std::vector<InboundConnect> requests_;
  std::vector<Responder> held_;
  std::vector<std::unique_ptr<Party>> users_;
  std::optional<CloseReason> closed_;
  bool hold_ = false;
};

TEST_F(ServerTest, SettingsAreTheReference) {
  Start();
  ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->Count(kWindowUpdate) == 1; }));
  Settings settings;
  settings.enable_push = 0;
  const auto* frame = peer_->Find(kSettings, 0);
  ASSERT_NE(frame, nullptr);
  ASSERT_EQ(ApplySettings(
                {reinterpret_cast<const uint8_t*>(frame->payload.data()), frame->payload.size()},
                settings),
            H2Error::kNoError);
  EXPECT_EQ(settings.initial_window, 256u << 10);
  EXPECT_EQ(settings.max_frame_size, 1u << 20);
  EXPECT_EQ(settings.max_header_list, 64u << 10);
  EXPECT_EQ(settings.max_concurrent_streams, 200u);
  EXPECT_EQ(settings.header_table_size, 0u);
  // 16 MiB for the connection.
  EXPECT_EQ(Read32(reinterpret_cast<const uint8_t*>(peer_->Find(kWindowUpdate, 0)->payload.data())),
            (16u << 20) - 65535u);
}

TEST_F(ServerTest, InputInPiecesOfAnySize) {
  for (size_t piece : {1u, 2u, 3u, 7u, 10u}) {
    users_.clear();
    requests_.clear();
    closed_.reset();
    server_.reset();
    Start({}, false);
    peer_->piece = piece;
    peer_->Hello(true, {{kSettingInitialWindow, 100000}});
    peer_->SendConnect(1);
    peer_->SendFrame(kData, kFlagPadded, 1, Bytes({3}) + "hello" + std::string(3, '\0'));
    peer_->SendFrame(kData, kFlagEndStream, 1, " you");
    ASSERT_TRUE(RunUntil(loop_, [&] { return !users_.empty() && users_[0]->end; }));
    EXPECT_EQ(users_[0]->received, "hello you");
    EXPECT_EQ(*users_[0]->end, IoResult::Kind::kEof);
  }
}

TEST_F(ServerTest, OtherMethodsGet400) {
  Start();
  peer_->SendHeaders(
      1, {{":method", "GET"}, {":scheme", "http"}, {":path", "/"}, {":authority", "x"}}, true);
  EXPECT_EQ(Status(1), "400");
  peer_->SendHeaders(3, {{":method", "POST"}, {":scheme", "http"}, {":path", "/"}});
  EXPECT_EQ(Status(3), "400");
  peer_->SendFrame(kData, 0, 3, "body that nobody reads");  // after our RST_STREAM: no error
  // Extended CONNECT was not announced.
  peer_->SendHeaders(5, {{":method", "CONNECT"},
                         {":protocol", "websocket"},
                         {":scheme", "https"},
                         {":path", "/"},
                         {":authority", "x"}});
  EXPECT_EQ(Status(5), "400");
  peer_->SendConnect(7);
  EXPECT_EQ(Status(7), "200");
  EXPECT_EQ(peer_->GoawayCode(), -1);
}

TEST_F(ServerTest, MalformedRequestsAreReset) {
  Start();
  uint32_t id = 1;
  for (const Headers& headers : {
           Headers{{":method", "CONNECT"}},
           Headers{{":method", "CONNECT"}, {":authority", ""}},
           Headers{{":method", "CONNECT"}, {":authority", "x:1"}, {":path", "/"}},
           Headers{{":method", "CONNECT"}, {":authority", "x:1"}, {":authority", "y:1"}},
           Headers{{":method", "CONNECT"}, {":authority", "x:1"}, {"Upper", "case"}},
           Headers{{":method", "CONNECT"}, {"a", "b"}, {":authority", "x:1"}},
           Headers{{":method", "CONNECT"}, {":authority", "x:1"}, {"connection", "close"}},
           Headers{{":method", "CONNECT"}, {":authority", "x:1"}, {":status", "200"}},
           Headers{{":method", "CONNECT"}, {":authority", "x:1"}, {"a", "b\r\nc: d"}},
           Headers{{":method", "GET"}},
           Headers{{":authority", "x:1"}},
       }) {
    peer_->SendHeaders(id, headers);
    ExpectReset(id, H2Error::kProtocolError);
    id += 2;
  }
  EXPECT_TRUE(requests_.empty());
}

TEST_F(ServerTest, TrailersEndTheStream) {
  Start();
  peer_->SendConnect(1);
  peer_->SendFrame(kData, 0, 1, "body");
  peer_->SendHeaders(1, {{"trailer", "ignored"}}, true);
  ASSERT_TRUE(RunUntil(loop_, [&] { return !users_.empty() && users_[0]->end; }));
  EXPECT_EQ(users_[0]->received, "body");
  EXPECT_EQ(*users_[0]->end, IoResult::Kind::kEof);
  peer_->SendConnect(3);
  peer_->SendHeaders(3, {{"trailer", "without the end"}}, false);
  ExpectReset(3, H2Error::kProtocolError);
}

// A truncated stream must not read as one that ended.
TEST_F(ServerTest, MalformedTrailersAreNoEnd) {
  Start();
  uint32_t id = 1;
  for (const Header& header : {Header{":method", "CONNECT"},
                               {":authority", "a:1"},
                               {":status", "200"},
                               {"Upper", "x"},
                               {"connection", "close"},
                               {"x", "a\nb"}}) {
    peer_->SendConnect(id);
    peer_->SendHeaders(id, {header}, true);
    ExpectReset(id, H2Error::kProtocolError);
    ASSERT_TRUE(RunUntil(loop_, [&] { return users_.back()->end.has_value(); }));
    EXPECT_EQ(*users_.back()->end, IoResult::Kind::kReset) << header.name;
    id += 2;
  }
}

TEST_F(ServerTest, ResetCodesAsTheReferenceReadsThem) {
  Start();
  uint32_t id = 1;
  for (auto [code, expect] : {std::pair{H2Error::kNoError, IoResult::Kind::kEof},
                              std::pair{H2Error::kCancel, IoResult::Kind::kEof},
                              std::pair{H2Error::kConnectError, IoResult::Kind::kReset},
                              std::pair{H2Error::kInternalError, IoResult::Kind::kReset}}) {
    peer_->SendConnect(id);
    peer_->SendFrame(kData, 0, id, "last words");
    peer_->SendFrame(kRstStream, 0, id, U32(static_cast<uint32_t>(code)));
    size_t n = id / 2;
    ASSERT_TRUE(RunUntil(loop_, [&] { return users_.size() > n && users_[n]->end; }));
    EXPECT_EQ(users_[n]->received, "last words");
    EXPECT_EQ(*users_[n]->end, expect) << id;
    users_[n]->Send("x");
    EXPECT_EQ(*users_[n]->write_end, IoResult::Kind::kReset);
    id += 2;
  }
  EXPECT_EQ(server_->streams(), 0u);
}

TEST_F(ServerTest, PeerWindowsAreObeyed) {
  Start({}, false);
  peer_->Hello(true, {{kSettingInitialWindow, 10}});
  peer_->SendConnect(1);
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_.size() == 1; }));
  users_[0]->Send("0123456789abcdefghij");
  auto received = [&] {
    std::string all;
    for (const auto& f : peer_->frames) {
      if (f.header.type == kData) all += f.payload;
    }
    return all;
  };
  ASSERT_TRUE(RunUntil(loop_, [&] { return received() == "0123456789"; }));
  Settle(loop_);
  EXPECT_EQ(received().size(), 10u);
  peer_->SendFrame(kWindowUpdate, 0, 1, U32(3));
  ASSERT_TRUE(RunUntil(loop_, [&] { return received() == "0123456789abc"; }));
  // A smaller initial window takes away what was given (the window may become negative)...
  peer_->SendFrame(kSettings, 0, 0, Bytes({0, 4}) + U32(5));
  peer_->SendFrame(kWindowUpdate, 0, 1, U32(4));
  Settle(loop_);
  EXPECT_EQ(received(), "0123456789abc");
  // ... and a larger one gives.
  peer_->SendFrame(kSettings, 0, 0, Bytes({0, 4}) + U32(100));
  ASSERT_TRUE(RunUntil(loop_, [&] { return received() == "0123456789abcdefghij"; }));
}

TEST_F(ServerTest, SmallFramesOfThePeerAreObeyedByHeaders) {
  Start();
  hold_ = true;
  peer_->SendConnect(1);
  ASSERT_TRUE(RunUntil(loop_, [&] { return held_.size() == 1; }));
  auto stream = held_[0].Accept({{"big", std::string(40000, 'x')}});
  ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->Count(kContinuation) == 2; }));
  for (const auto& f : peer_->frames) EXPECT_LE(f.header.length, kDefaultFrameSize);
}

// ---- errors that end the connection ----

TEST_F(ServerTest, NotHttp2AtAll) {
  Start({}, false);
  peer_->Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  ExpectGoaway(H2Error::kProtocolError);
}

TEST_F(ServerTest, FirstFrameMustBeSettings) {
  Start({}, false);
  peer_->Send(kPreface);
  peer_->SendFrame(kPing, 0, 0, "12345678");
  ExpectGoaway(H2Error::kProtocolError);
}

TEST_F(ServerTest, SilentPeerIsNotKept) {
  SessionOptions options;
  options.preface_timeout = 30ms;
  Start(options, false);
  ExpectGoaway(H2Error::kSettingsTimeout);
}

TEST_F(ServerTest, UnansweredPingEndsTheTunnel) {
  SessionOptions options;
  options.ping_interval = 10ms;
  options.ping_timeout = 50ms;
  Start(options);
  peer_->SendConnect(1);
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_.size() == 1; }));
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_[0]->end.has_value(); }));
  EXPECT_EQ(*users_[0]->end, IoResult::Kind::kReset);
  EXPECT_GE(peer_->Count(kPing), 1u);
  EXPECT_EQ(peer_->GoawayCode(), Code(H2Error::kNoError));
  EXPECT_THAT(users_[0]->transport().error(), HasSubstr("PING"));
}

struct Bad {
  const char* name;
  H2Error code;
  std::function<void(RawPeer&)> send;
};

TEST_F(ServerTest, ConnectionErrors) {
  const Bad kCases[] = {
      {"data on stream 0", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kData, 0, 0, "x"); }},
      {"data on an idle stream", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kData, 0, 5, "x"); }},
      {"reset of an idle stream", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kRstStream, 0, 5, U32(8)); }},
      {"window update on an idle stream", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kWindowUpdate, 0, 5, U32(8)); }},
      {"headers on an even stream", H2Error::kProtocolError, [](RawPeer& p) { p.SendConnect(2); }},
      {"headers on a lower stream", H2Error::kStreamClosed,
       [](RawPeer& p) {
         p.SendConnect(5);
         p.SendConnect(3);
       }},
      {"headers on stream 0", H2Error::kProtocolError, [](RawPeer& p) { p.SendConnect(0); }},
      {"frame inside a header block", H2Error::kProtocolError,
       [](RawPeer& p) {
         p.SendFrame(kHeaders, 0, 1, "");
         p.SendFrame(kPing, 0, 0, "12345678");
       }},
      {"continuation of another stream", H2Error::kProtocolError,
       [](RawPeer& p) {
         p.SendFrame(kHeaders, 0, 1, "");
         p.SendFrame(kContinuation, kFlagEndHeaders, 3, "");
       }},
      {"continuation without headers", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kContinuation, kFlagEndHeaders, 1, ""); }},
      {"padding longer than the frame", H2Error::kProtocolError,
       [](RawPeer& p) {
         p.SendConnect(1);
         p.SendFrame(kData, kFlagPadded, 1, Bytes({200, 1, 2}));
       }},
      {"padded data without padding length", H2Error::kFrameSizeError,
       [](RawPeer& p) {
         p.SendConnect(1);
         p.SendFrame(kData, kFlagPadded, 1, "");
       }},
      {"broken header compression", H2Error::kCompressionError,
       [](RawPeer& p) { p.SendFrame(kHeaders, kFlagEndHeaders, 1, "\xff\xff\xff\xff\xff\xff"); }},
      {"stream that depends on itself", H2Error::kProtocolError,
       [](RawPeer& p) {
         p.SendFrame(kHeaders, kFlagEndHeaders | kFlagPriority, 1, U32(1) + Bytes({16}));
       }},
      {"ping of seven bytes", H2Error::kFrameSizeError,
       [](RawPeer& p) { p.SendFrame(kPing, 0, 0, "1234567"); }},
      {"ping on a stream", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kPing, 0, 1, "12345678"); }},
      {"settings of five bytes", H2Error::kFrameSizeError,
       [](RawPeer& p) { p.SendFrame(kSettings, 0, 0, "12345"); }},
      {"settings on a stream", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kSettings, 0, 1, ""); }},
      {"settings ack with payload", H2Error::kFrameSizeError,
       [](RawPeer& p) { p.SendFrame(kSettings, kFlagAck, 0, "123456"); }},
      {"enable push of two", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kSettings, 0, 0, Bytes({0, 2}) + U32(2)); }},
      {"window over the limit", H2Error::kFlowControlError,
       [](RawPeer& p) { p.SendFrame(kSettings, 0, 0, Bytes({0, 4}) + U32(0x80000000)); }},
      {"frame size under the limit", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kSettings, 0, 0, Bytes({0, 5}) + U32(100)); }},
      {"frame size over the limit", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kSettings, 0, 0, Bytes({0, 5}) + U32(0x1000000)); }},
      {"window update of zero", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kWindowUpdate, 0, 0, U32(0)); }},
      {"connection window over the limit", H2Error::kFlowControlError,
       [](RawPeer& p) { p.SendFrame(kWindowUpdate, 0, 0, U32(0x7fffffff)); }},
      {"window update of three bytes", H2Error::kFrameSizeError,
       [](RawPeer& p) { p.SendFrame(kWindowUpdate, 0, 0, "123"); }},
      {"push promise", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kPushPromise, kFlagEndHeaders, 1, U32(2)); }},
      {"goaway on a stream", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kGoaway, 0, 1, U32(0) + U32(0)); }},
      {"goaway too short", H2Error::kFrameSizeError,
       [](RawPeer& p) { p.SendFrame(kGoaway, 0, 0, U32(0)); }},
      {"rst_stream of three bytes", H2Error::kFrameSizeError,
       [](RawPeer& p) {
         p.SendConnect(1);
         p.SendFrame(kRstStream, 0, 1, "123");
       }},
      {"frame larger than announced", H2Error::kFrameSizeError,
       [](RawPeer& p) {
         uint8_t raw[kFrameHeaderSize];
         FormatFrameHeader({(1u << 20) + 1, kData, 0, 1}, raw);
         p.Send({reinterpret_cast<const char*>(raw), sizeof raw});
       }},
  };
  for (const Bad& bad : kCases) {
    SCOPED_TRACE(bad.name);
    closed_.reset();
    users_.clear();
    server_.reset();
    Start();
    bad.send(*peer_);
    ExpectGoaway(bad.code);
  }
}

TEST_F(ServerTest, DataBeyondTheWindows) {
  SessionOptions options;
  options.stream_window = 1000;
  Start(options);
  hold_ = true;
  peer_->SendConnect(1);
  peer_->SendFrame(kData, 0, 1, std::string(1000, 'x'));
  peer_->SendFrame(kData, 0, 1, "y");
  ExpectReset(1, H2Error::kFlowControlError);
}

TEST_F(ServerTest, ClosedStreams) {
  Start();
  peer_->SendConnect(1);
  peer_->SendFrame(kData, kFlagEndStream, 1, "all");
  peer_->SendFrame(kData, 0, 1, "more");
  ExpectReset(1, H2Error::kStreamClosed);
  // What crosses our own reset on the wire is no error.
  peer_->SendConnect(3);
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_.size() == 2; }));
  users_[1]->transport().Abort();
  ExpectReset(3, H2Error::kConnectError);
  peer_->SendFrame(kData, 0, 3, "on its way");
  peer_->SendFrame(kWindowUpdate, 0, 3, U32(5));
  peer_->SendHeaders(3, {{"trailer", "x"}}, true);
  peer_->SendFrame(kRstStream, 0, 3, U32(8));
  Settle(loop_);
  EXPECT_EQ(peer_->GoawayCode(), -1);
}

TEST_F(ServerTest, TooManyStreamsAreRefused) {
  SessionOptions options;
  options.max_concurrent_streams = 2;
  Start(options);
  peer_->SendConnect(1);
  peer_->SendConnect(3);
  peer_->SendConnect(5);
  ExpectReset(5, H2Error::kRefusedStream);
  EXPECT_EQ(requests_.size(), 2u);
}

TEST_F(ServerTest, HeadersOverTheLimitGet431) {
  Start();
  peer_->SendHeaders(1, {{":method", "CONNECT"},
                         {":authority", "x:1"},
                         {"a", std::string(15000, 'x')},
                         {"b", std::string(1000, 'y')}});
  EXPECT_EQ(Status(1), "200");
  ByteQueue out;
  Headers large = {{":method", "CONNECT"}, {":authority", "x:1"}};
  for (int i = 0; i < 5; ++i) large.push_back({"a", std::string(15000, 'x')});
  PutHeaders(out, 3, peer_->encoder.Encode(large), false, kDefaultFrameSize);
  peer_->Send(out);
  EXPECT_EQ(Status(3), "431");
  peer_->SendConnect(5);
  EXPECT_EQ(Status(5), "200");
}

TEST_F(ServerTest, GracefulGoawayIsTwoSteps) {
  Start();
  peer_->SendConnect(1);
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_.size() == 1; }));
  server_->Drain();
  ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->Count(kPing) == 1; }));
  const auto last = [&](size_t n) {
    size_t i = 0;
    for (const auto& f : peer_->frames) {
      if (f.header.type == kGoaway && i++ == n) {
        return Read32(reinterpret_cast<const uint8_t*>(f.payload.data()));
      }
    }
    return 0u;
  };
  EXPECT_EQ(last(0), kMaxStreamId);
  peer_->SendConnect(3);  // was on its way: still taken
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_.size() == 2; }));
  peer_->SendFrame(kPing, kFlagAck, 0, peer_->Find(kPing, 0)->payload);
  ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->Count(kGoaway) == 2; }));
  EXPECT_EQ(last(1), 3u);
  peer_->SendConnect(5);  // too late: ignored
  Settle(loop_);
  EXPECT_EQ(users_.size(), 2u);
  EXPECT_FALSE(closed_);
  for (uint32_t id : {1u, 3u}) {
    peer_->SendFrame(kData, kFlagEndStream, id, "");
    users_[id / 2]->Finish();
  }
  ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->end.has_value(); }));
  EXPECT_EQ(*peer_->end, IoResult::Kind::kEof);
}

// ---- the client end ----

class ClientTest : public ::testing::Test {
 protected:
  void Start(SessionOptions options = {}) {
    auto [a, b] = net::MakePipe(loop_, 4 << 20);
    peer_ = std::make_unique<RawPeer>(std::move(a), true);
    client_ = std::make_unique<ClientSession>(
        std::move(b), options,
        ClientSession::Events{nullptr, [this](const CloseReason& r) { closed_ = r; }});
    peer_->Hello(false);
  }
  void Connect() {
    result_.reset();
    pending_ = client_->Connect({"10.0.0.1:80", {}},
                                [&](ClientSession::ConnectResult r) { result_ = std::move(r); });
    Settle(loop_);
  }
  void ExpectGoaway(H2Error code) {
    ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->GoawayCode() >= 0; }));
    EXPECT_EQ(peer_->GoawayCode(), Code(code));
  }

  event::EventLoop loop_;
  std::unique_ptr<RawPeer> peer_;
  std::unique_ptr<ClientSession> client_;
  std::optional<CloseReason> closed_;
  std::optional<ClientSession::ConnectResult> result_;
  std::unique_ptr<PendingConnect> pending_;
};

TEST_F(ClientTest, SaysWhatTheReferenceSays) {
  Start();
  pending_ = client_->Connect(
      {"10.0.0.1:80", {{"baggage", "b"}, {"forwarded", "f"}, {"traceparent", "t"}}},
      [](ClientSession::ConnectResult) {});
  ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->Find(kHeaders, 1) != nullptr; }));
  Settings settings;
  const auto* frame = peer_->Find(kSettings, 0);
  ApplySettings({reinterpret_cast<const uint8_t*>(frame->payload.data()), frame->payload.size()},
                settings);
  EXPECT_EQ(settings.enable_push, 0u);
  EXPECT_EQ(settings.initial_window, 4u << 20);
  EXPECT_EQ(settings.max_header_list, 16u << 10);
  EXPECT_EQ(settings.header_table_size, 0u);
  Headers headers;
  const auto& block = peer_->Find(kHeaders, 1)->payload;
  peer_->decoder.Decode({reinterpret_cast<const uint8_t*>(block.data()), block.size()}, headers);
  EXPECT_EQ(headers, (Headers{{":method", "CONNECT"},
                              {":authority", "10.0.0.1:80"},
                              {"baggage", "b"},
                              {"forwarded", "f"},
                              {"traceparent", "t"}}));
  EXPECT_EQ(peer_->Find(kHeaders, 1)->header.flags, kFlagEndHeaders);
}

// RFC 9113 8.1: a server that has said all may ask the client to stop; the client must not lose
// what was said. Its late bytes go nowhere, but a client that goes on and on is told.
TEST_F(ClientTest, AWholeAnswerIsNotLostWhenThePeerWantsNoMore) {
  Start();
  Connect();
  peer_->SendHeaders(1, {{":status", "200"}});
  Settle(loop_);
  ASSERT_TRUE(result_ && *result_);
  Party user(std::move((*result_)->stream));
  user.transport().ReadEnable(false);  // it is slow
  user.Send("question");
  peer_->SendFrame(kData, kFlagEndStream, 1, "whole answer");
  peer_->SendFrame(kRstStream, 0, 1, U32(0));
  Settle(loop_);
  user.Send("late");
  EXPECT_FALSE(user.write_end);
  user.transport().ReadEnable(true);
  ASSERT_TRUE(RunUntil(loop_, [&] { return user.end.has_value(); }));
  EXPECT_EQ(user.received, "whole answer");
  EXPECT_EQ(*user.end, IoResult::Kind::kEof);
  EXPECT_TRUE(user.transport().ShutdownWrite().ok());
  user.Send(std::string(1 << 20, 'x'));
  EXPECT_EQ(user.write_end, IoResult::Kind::kReset);
  for (const auto& frame : peer_->frames) EXPECT_NE(frame.payload, "late");
}

// With any other code, or before the end, it is the reset that it says.
TEST_F(ClientTest, OtherResetsBreakWritingAtOnce) {
  Start();
  uint32_t id = 1;
  for (auto [flags, code] : {std::pair<uint8_t, H2Error>{kFlagEndStream, H2Error::kConnectError},
                             {kFlagEndStream, H2Error::kCancel},
                             {0, H2Error::kNoError}}) {
    Connect();
    peer_->SendHeaders(id, {{":status", "200"}});
    Settle(loop_);
    ASSERT_TRUE(result_ && *result_);
    Party user(std::move((*result_)->stream));
    peer_->SendFrame(kData, flags, id, "answer");
    peer_->SendFrame(kRstStream, 0, id, U32(static_cast<uint32_t>(code)));
    Settle(loop_);
    user.Send("late");
    EXPECT_EQ(user.write_end, IoResult::Kind::kReset) << id;
    id += 2;
  }
}

TEST_F(ClientTest, GoawayRefusesWhatWasNotProcessed) {
  Start();
  Connect();
  std::optional<ClientSession::ConnectResult> second;
  auto pending =
      client_->Connect({"x:1", {}}, [&](ClientSession::ConnectResult r) { second = std::move(r); });
  Settle(loop_);
  peer_->SendFrame(kGoaway, 0, 0, U32(1) + U32(0) + "bye");
  ASSERT_TRUE(RunUntil(loop_, [&] { return second.has_value(); }));
  EXPECT_TRUE(second->error().retry_safe);
  EXPECT_THAT(second->error().error.message, HasSubstr("bye"));
  EXPECT_FALSE(client_->CanOpen());
  EXPECT_FALSE(result_);
  peer_->SendHeaders(1, {{":status", "200"}});
  ASSERT_TRUE(RunUntil(loop_, [&] { return result_.has_value(); }));
  EXPECT_FALSE(closed_);
  (*result_)->stream.reset();
  ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->end.has_value(); }));
}

// Who asks the streams' owners or the session's why, hears that it was HTTP/2 that failed.
TEST_F(ClientTest, AGoawayWithAnErrorIsAFailureOfHttp2) {
  Start();
  Connect();
  peer_->SendFrame(kGoaway, 0, 0, U32(1) + U32(2) + "lost my mind");
  Settle(loop_);
  EXPECT_FALSE(result_);  // it may still be answered
  peer_->transport().ShutdownWrite();
  ASSERT_TRUE(RunUntil(loop_, [&] { return closed_ && result_; }));
  EXPECT_TRUE(closed_->failed);
  EXPECT_TRUE(closed_->by_peer);
  EXPECT_EQ(closed_->code, H2Error::kInternalError);
  EXPECT_THAT(closed_->message, HasSubstr("lost my mind"));
  EXPECT_EQ(result_->error().error.code, Code::kInternal);
}

TEST_F(ClientTest, BrokenFramingIsAFailureOfHttp2) {
  Start();
  Connect();
  peer_->SendFrame(kData, 0, 0, "on no stream");
  ASSERT_TRUE(RunUntil(loop_, [&] { return closed_ && result_; }));
  EXPECT_TRUE(closed_->failed);
  EXPECT_FALSE(closed_->by_peer);
  EXPECT_EQ(result_->error().error.code, Code::kInternal);
}

TEST_F(ClientTest, ATunnelThatBreaksIsAFailureButNotOfHttp2) {
  Start();
  Connect();
  peer_->transport().Abort();
  ASSERT_TRUE(RunUntil(loop_, [&] { return closed_ && result_; }));
  EXPECT_TRUE(closed_->failed);
  EXPECT_EQ(result_->error().error.code, Code::kUnavailable);
}

TEST_F(ClientTest, OurOwnWishIsNoFailure) {
  Start();
  client_->Close("the pod was removed");
  ASSERT_TRUE(RunUntil(loop_, [&] { return closed_.has_value(); }));
  EXPECT_FALSE(closed_->failed);
  EXPECT_EQ(closed_->message, "the pod was removed");
}

TEST_F(ClientTest, RefusedStreamMayBeRetried) {
  Start();
  Connect();
  peer_->SendFrame(kRstStream, 0, 1, U32(7));
  ASSERT_TRUE(RunUntil(loop_, [&] { return result_.has_value(); }));
  EXPECT_TRUE(result_->error().retry_safe);
  Connect();
  peer_->SendFrame(kRstStream, 0, 3, U32(2));
  ASSERT_TRUE(RunUntil(loop_, [&] { return result_.has_value(); }));
  EXPECT_FALSE(result_->error().retry_safe);
}

TEST_F(ClientTest, InformationalResponsesAreSkipped) {
  Start();
  Connect();
  peer_->SendHeaders(1, {{":status", "103"}});
  Settle(loop_);
  EXPECT_FALSE(result_);
  peer_->SendHeaders(1, {{":status", "200"}}, true);
  ASSERT_TRUE(RunUntil(loop_, [&] { return result_.has_value(); }));
  Party user(std::move((*result_)->stream));
  ASSERT_TRUE(RunUntil(loop_, [&] { return user.end.has_value(); }));
  EXPECT_EQ(*user.end, IoResult::Kind::kEof);
}

TEST_F(ClientTest, MalformedResponses) {
  for (const Headers& headers :
       {Headers{{"x", "y"}}, Headers{{":status", "20"}}, Headers{{":status", "abc"}},
        Headers{{":status", "200x"}}, Headers{{":status", "101"}},
        Headers{{":status", "200"}, {":method", "GET"}},
        Headers{{":status", "200"}, {"connection", "close"}}}) {
    Start();
    Connect();
    peer_->SendHeaders(1, headers);
    ASSERT_TRUE(RunUntil(loop_, [&] { return result_.has_value(); }));
    EXPECT_FALSE(*result_);
    ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->ResetCode(1) >= 0; }));
    EXPECT_EQ(peer_->ResetCode(1), Code(H2Error::kProtocolError));
    client_.reset();
  }
}

TEST_F(ClientTest, ConnectionErrors) {
  const Bad kCases[] = {
      {"push promise", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kPushPromise, kFlagEndHeaders, 1, U32(2)); }},
      {"headers on a stream never opened", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendHeaders(99, {{":status", "200"}}); }},
      {"headers on an even stream", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendHeaders(2, {{":status", "200"}}); }},
      {"data before the response", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kData, 0, 1, "x"); }},
      {"window of a stream never opened", H2Error::kProtocolError,
       [](RawPeer& p) { p.SendFrame(kWindowUpdate, 0, 99, U32(1)); }},
  };
  for (const Bad& bad : kCases) {
    SCOPED_TRACE(bad.name);
    client_.reset();
    Start();
    Connect();
    bad.send(*peer_);
    ExpectGoaway(bad.code);
    EXPECT_TRUE(result_ && !*result_);
  }
}

}  // namespace
}  // namespace qanat::hbone
