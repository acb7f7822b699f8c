// SPDX-License-Identifier: Apache-2.0
// Both ends of ours against each other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <random>

#include "common/hbone/client_session.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using net::IoResult;
using ::testing::HasSubstr;
using testing::Party;
using testing::Pattern;
using testing::RunUntil;
using testing::Settle;
using namespace std::chrono_literals;

// A transport whose reads and writes are cut at random places.
class Choppy final : public net::Transport {
 public:
  Choppy(net::TransportPtr inner, unsigned seed) : inner_(std::move(inner)), random_(seed) {}
  void SetEvents(net::TransportEvents* events) override { inner_->SetEvents(events); }
  void ReadEnable(bool on) override { inner_->ReadEnable(on); }
  void WriteEnable(bool on) override { inner_->WriteEnable(on); }
  IoResult Read(std::span<uint8_t> into) override {
    return inner_->Read(into.first(std::min<size_t>(into.size(), 1 + random_() % 200)));
  }
  IoResult Write(std::span<const iovec> from) override {
    if (random_() % 4 == 0) return {IoResult::Kind::kWouldBlock, 0};
    for (const iovec& part : from) {
      if (part.iov_len == 0) continue;
      iovec cut{part.iov_base, std::min<size_t>(part.iov_len, 1 + random_() % 5000)};
      return inner_->Write({&cut, 1});
    }
    return {};
  }
  IoResult ShutdownWrite() override { return inner_->ShutdownWrite(); }
  void Abort() override { inner_->Abort(); }
  event::EventLoop& loop() override { return inner_->loop(); }
  net::SocketAddress local_address() const override { return inner_->local_address(); }
  net::SocketAddress peer_address() const override { return inner_->peer_address(); }

 private:
  net::TransportPtr inner_;
  std::mt19937 random_;
};

class SessionTest : public ::testing::Test {
 protected:
  void Start(SessionOptions options = {}, size_t capacity = 65536, unsigned chop = 0) {
    auto [a, b] = net::MakePipe(loop_, capacity);
    if (chop != 0) {
      a = std::make_unique<Choppy>(std::move(a), chop);
      b = std::make_unique<Choppy>(std::move(b), chop + 1);
    }
    client_ = std::make_unique<ClientSession>(
        std::move(a), options,
        ClientSession::Events{[this] { ++changes_; },
                              [this](const CloseReason& r) { client_closed_ = r; }});
    server_ = std::make_unique<ServerSession>(
        std::move(b), options,
        ServerSession::Events{[this](InboundConnect request, Responder responder) {
                                requests_.push_back(std::move(request));
                                if (hold_) {
                                  held_.push_back(std::move(responder));
                                  return;
                                }
                                auto stream = responder.Accept({{"baggage", "k=v"}});
                                at_server_.push_back(std::make_unique<Party>(std::move(stream)));
                                at_server_.back()->echo = echo_;
                              },
                              [this](const CloseReason& r) { server_closed_ = r; }});
  }
  // Opens a stream and waits for the answer.
  Party* Open(std::string authority = "10.0.0.1:80") {
    std::optional<ClientSession::ConnectResult> result;
    auto pending = client_->Connect({std::move(authority), {{"traceparent", "00-aa-bb-00"}}},
                                    [&](ClientSession::ConnectResult r) { result = std::move(r); });
    RunUntil(loop_, [&] { return result.has_value(); });
    if (!result || !*result || (*result)->stream == nullptr) return nullptr;
    last_headers_ = (*result)->headers;
    at_client_.push_back(std::make_unique<Party>(std::move((*result)->stream)));
    return at_client_.back().get();
  }
  Party& ServerEnd(size_t i = 0) { return *at_server_.at(i); }

  event::EventLoop loop_;
  std::unique_ptr<ClientSession> client_;
  std::unique_ptr<ServerSession> server_;
  std::optional<CloseReason> client_closed_, server_closed_;
  std::vector<InboundConnect> requests_;
  std::deque<Responder> held_;
  std::vector<std::unique_ptr<Party>> at_server_, at_client_;
  Headers last_headers_;
  bool hold_ = false, echo_ = false;
  int changes_ = 0;
};

TEST_F(SessionTest, ConnectEchoHalfClose) {
  Start();
  Party* client = Open("[fd00::1]:8080");
  ASSERT_NE(client, nullptr);
  EXPECT_EQ(requests_[0].authority, "[fd00::1]:8080");
  EXPECT_EQ(requests_[0].traceparent(), "00-aa-bb-00");
  EXPECT_EQ(Find(last_headers_, "baggage"), "k=v");
  client->Send("hello");
  client->Finish();
  ASSERT_TRUE(RunUntil(loop_, [&] { return ServerEnd().end.has_value(); }));
  EXPECT_EQ(ServerEnd().received, "hello");
  EXPECT_EQ(*ServerEnd().end, IoResult::Kind::kEof);
  EXPECT_FALSE(client->end);
  ServerEnd().Send("the other direction goes on");
  ServerEnd().Finish();
  ASSERT_TRUE(RunUntil(loop_, [&] { return client->end.has_value(); }));
  EXPECT_EQ(client->received, "the other direction goes on");
  EXPECT_EQ(*client->end, IoResult::Kind::kEof);
  EXPECT_EQ(client_->streams(), 0u);
  EXPECT_EQ(server_->streams(), 0u);
  EXPECT_FALSE(client_closed_);
}

TEST_F(SessionTest, ServerSpeaksFirst) {
  Start();
  hold_ = true;
  std::optional<ClientSession::ConnectResult> result;
  auto pending = client_->Connect({"db:5432", {}},
                                  [&](ClientSession::ConnectResult r) { result = std::move(r); });
  ASSERT_TRUE(RunUntil(loop_, [&] { return !held_.empty(); }));
  Party server(held_[0].Accept());
  server.Send("banner");
  server.Finish();
  ASSERT_TRUE(RunUntil(loop_, [&] { return result.has_value(); }));
  Party client(std::move((*result)->stream));
  ASSERT_TRUE(RunUntil(loop_, [&] { return client.end.has_value(); }));
  EXPECT_EQ(client.received, "banner");
}

TEST_F(SessionTest, RefusalCarriesStatus) {
  Start();
  hold_ = true;
  std::optional<ClientSession::ConnectResult> result;
  auto pending = client_->Connect({"10.0.0.1:80", {}},
                                  [&](ClientSession::ConnectResult r) { result = std::move(r); });
  ASSERT_TRUE(RunUntil(loop_, [&] { return !held_.empty(); }));
  held_[0].Reject(401, {{"why", "policy"}});
  ASSERT_TRUE(RunUntil(loop_, [&] { return result.has_value(); }));
  ASSERT_TRUE(*result);
  EXPECT_EQ((*result)->status, 401);
  EXPECT_EQ((*result)->stream, nullptr);
  EXPECT_EQ(Find((*result)->headers, "why"), "policy");
  Settle(loop_);
  EXPECT_EQ(client_->streams(), 0u);
  EXPECT_EQ(server_->streams(), 0u);
  // A responder that is dropped refuses too.
  result.reset();
  pending = client_->Connect({"10.0.0.1:80", {}},
                             [&](ClientSession::ConnectResult r) { result = std::move(r); });
  ASSERT_TRUE(RunUntil(loop_, [&] { return held_.size() == 2; }));
  held_.clear();
  ASSERT_TRUE(RunUntil(loop_, [&] { return result.has_value(); }));
  EXPECT_EQ((*result)->status, 503);
}

TEST_F(SessionTest, CancelledConnectTellsTheServer) {
  Start();
  hold_ = true;
  auto pending = client_->Connect({"10.0.0.1:80", {}},
                                  [](ClientSession::ConnectResult) { FAIL() << "cancelled"; });
  ASSERT_TRUE(RunUntil(loop_, [&] { return !held_.empty(); }));
  bool gone = false;
  held_[0].OnGone([&] { gone = true; });
  pending.reset();
  ASSERT_TRUE(RunUntil(loop_, [&] { return gone; }));
  EXPECT_EQ(held_[0].Accept(), nullptr);
  EXPECT_EQ(server_->streams(), 0u);
}

TEST_F(SessionTest, AbortIsResetOnTheOtherSide) {
  Start();
  Party* client = Open();
  client->Send("some");
  ASSERT_TRUE(RunUntil(loop_, [&] { return ServerEnd().received == "some"; }));
  client->transport().Abort();
  ASSERT_TRUE(RunUntil(loop_, [&] { return ServerEnd().end.has_value(); }));
  EXPECT_EQ(*ServerEnd().end, IoResult::Kind::kReset);
  EXPECT_THAT(ServerEnd().transport().error(), HasSubstr("CONNECT_ERROR"));
  // And the other way round; dropping an unfinished stream is an abort too.
  client = Open();
  ServerEnd(1).Close();
  ASSERT_TRUE(RunUntil(loop_, [&] { return client->end.has_value(); }));
  EXPECT_EQ(*client->end, IoResult::Kind::kReset);
  EXPECT_EQ(server_->streams(), 0u);
  EXPECT_EQ(client_->streams(), 0u);
}

TEST_F(SessionTest, DataBeforeAbortIsStillRead) {
  Start();
  Party* client = Open();
  ServerEnd().transport().ReadEnable(false);
  client->Send("data");
  Settle(loop_);
  client->transport().Abort();
  Settle(loop_);
  ServerEnd().transport().ReadEnable(true);
  ASSERT_TRUE(RunUntil(loop_, [&] { return ServerEnd().end.has_value(); }));
  EXPECT_EQ(ServerEnd().received, "data");
  EXPECT_EQ(*ServerEnd().end, IoResult::Kind::kReset);
}

TEST_F(SessionTest, BackpressureStopsAtTheWindow) {
  SessionOptions options;
  options.stream_window = 100000;
  options.send_buffer = 50000;
  Start(options, /*capacity=*/20000);
  Party* client = Open();
  Party* other = Open();
  ServerEnd(0).transport().ReadEnable(false);
  client->Send(Pattern(1 << 20, 1));
  for (int i = 0; i < 500; ++i) loop_.RunOnce(0ms);
  // The window is used up and not a byte more was taken.
  EXPECT_EQ(client->to_send.size(), (1u << 20) - 100000u);
  EXPECT_GT(client->blocked, 0);
  // Another stream of the same tunnel does not care.
  other->Send("passes");
  EXPECT_TRUE(RunUntil(loop_, [&] { return ServerEnd(1).received == "passes"; }));
  ServerEnd(0).transport().ReadEnable(true);
  client->Finish();
  ASSERT_TRUE(RunUntil(loop_, [&] { return ServerEnd(0).end.has_value(); }));
  EXPECT_TRUE(ServerEnd(0).received == Pattern(1 << 20, 1));
}

TEST_F(SessionTest, BigTransfersBothWaysOnManyStreams) {
  for (unsigned seed : {0u, 7u}) {  // whole and cut to pieces
    SessionOptions options;
    options.stream_window = 70000;
    options.connection_window = 150000;
    options.send_buffer = 40000;
    requests_.clear();
    at_server_.clear();
    at_client_.clear();
    client_.reset();
    server_.reset();
    echo_ = true;
    Start(options, 30000, seed);
    size_t size = seed == 0 ? 3 << 20 : 200 << 10;
    std::vector<Party*> parties;
    for (unsigned i = 0; i < 8; ++i) parties.push_back(Open());
    for (unsigned i = 0; i < 8; ++i) {
      parties[i]->piece = 1000 + 9000 * i;
      parties[i]->chunk = 500 + 20000 * i;
      parties[i]->Send(Pattern(size + i, i));
      parties[i]->Finish();
    }
    ASSERT_TRUE(RunUntil(
        loop_,
        [&] {
          for (Party* p : parties) {
            if (!p->end) return false;
          }
          return true;
        },
        50s));
    for (unsigned i = 0; i < 8; ++i) {
      EXPECT_EQ(*parties[i]->end, IoResult::Kind::kEof);
      EXPECT_TRUE(parties[i]->received == Pattern(size + i, i)) << i;
    }
    EXPECT_EQ(client_->streams(), 0u);
  }
}

TEST_F(SessionTest, UnreadDataOfADroppedStreamGivesItsCreditBack) {
  SessionOptions options;
  options.stream_window = 80000;
  options.connection_window = 100000;
  Start(options);
  for (int i = 0; i < 10; ++i) {
    Party* client = Open();
    ASSERT_NE(client, nullptr);
    ServerEnd(static_cast<size_t>(i)).transport().ReadEnable(false);
    client->Send(Pattern(80000, 1));
    for (int r = 0; r < 50; ++r) loop_.RunOnce(0ms);
    EXPECT_TRUE(client->to_send.empty()) << "round " << i;
    ServerEnd(static_cast<size_t>(i)).Close();
    Settle(loop_);
  }
}

TEST_F(SessionTest, ServerDrainIsGraceful) {
  Start();
  Party* client = Open();
  server_->Drain();
  ASSERT_TRUE(RunUntil(loop_, [&] { return !client_->CanOpen(); }));
  // The stream that is there goes on to its end.
  client->Send("still here");
  client->Finish();
  ASSERT_TRUE(RunUntil(loop_, [&] { return ServerEnd().end.has_value(); }));
  EXPECT_EQ(ServerEnd().received, "still here");
  ServerEnd().Send("good bye");
  ServerEnd().Finish();
  ASSERT_TRUE(RunUntil(loop_, [&] { return client_closed_ && server_closed_; }));
  EXPECT_EQ(client->received, "good bye");
  EXPECT_EQ(*client->end, IoResult::Kind::kEof);
  EXPECT_EQ(client_closed_->message, "");
  EXPECT_EQ(server_closed_->message, "");
}

TEST_F(SessionTest, ClientDrainIsGraceful) {
  Start();
  Party* client = Open();
  client_->Drain();
  EXPECT_FALSE(client_->CanOpen());
  std::optional<ClientSession::ConnectResult> result;
  auto pending =
      client_->Connect({"x:1", {}}, [&](ClientSession::ConnectResult r) { result = std::move(r); });
  EXPECT_FALSE(result);  // never from inside
  ASSERT_TRUE(RunUntil(loop_, [&] { return result.has_value(); }));
  EXPECT_TRUE(result->error().retry_safe);
  client->Finish();
  ServerEnd().Finish();
  ASSERT_TRUE(RunUntil(loop_, [&] { return client_closed_ && server_closed_; }));
  EXPECT_EQ(server_closed_->message, "");
}

TEST_F(SessionTest, LostTunnelResetsItsStreams) {
  Start();
  Party* client = Open();
  hold_ = true;
  std::optional<ClientSession::ConnectResult> result;
  auto pending =
      client_->Connect({"x:1", {}}, [&](ClientSession::ConnectResult r) { result = std::move(r); });
  ASSERT_TRUE(RunUntil(loop_, [&] { return !held_.empty(); }));
  server_.reset();
  ASSERT_TRUE(RunUntil(loop_, [&] { return client->end && result; }));
  EXPECT_EQ(*client->end, IoResult::Kind::kReset);
  EXPECT_FALSE(*result);
  EXPECT_TRUE(client_closed_);
  // The server's user still holds its end: it reads the reset too, without the session.
  ASSERT_TRUE(RunUntil(loop_, [&] { return ServerEnd().end.has_value(); }));
  EXPECT_EQ(*ServerEnd().end, IoResult::Kind::kReset);
  ServerEnd().Send("x");
  EXPECT_EQ(*ServerEnd().write_end, IoResult::Kind::kReset);
}

TEST_F(SessionTest, SessionsMayBeDestroyedFromTheirOwnCallbacks) {
  Start();
  std::optional<ClientSession::ConnectResult> result;
  auto pending = client_->Connect({"x:1", {}}, [&](ClientSession::ConnectResult r) {
    result = std::move(r);
    client_.reset();
  });
  ASSERT_TRUE(RunUntil(loop_, [&] { return result.has_value(); }));
  Party orphan(std::move((*result)->stream));
  ASSERT_TRUE(RunUntil(loop_, [&] { return orphan.end.has_value(); }));
  EXPECT_EQ(*orphan.end, IoResult::Kind::kReset);
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_closed_.has_value(); }));
}

TEST_F(SessionTest, StreamLimitOfThePeerHolds) {
  SessionOptions options;
  options.max_concurrent_streams = 3;
  Start(options);
  for (int i = 0; i < 3; ++i) ASSERT_NE(Open(), nullptr);
  EXPECT_FALSE(client_->CanOpen());
  at_client_[0]->Finish();
  ServerEnd(0).Finish();
  ASSERT_TRUE(RunUntil(loop_, [&] { return client_->CanOpen(); }));
  EXPECT_NE(Open(), nullptr);
}

TEST_F(SessionTest, KeepaliveIsAnswered) {
  SessionOptions options;
  options.ping_interval = 10ms;
  options.ping_timeout = 500ms;
  Start(options);
  Open();
  // A time in which an unanswered question would be the end; where this process stands still, an
  // answer is late that no peer is to blame for, so no time passes without rounds.
  auto left = std::chrono::nanoseconds(1200ms);
  for (auto last = std::chrono::steady_clock::now(); left > 0ms;) {
    loop_.RunOnce(5ms);
    const auto now = std::chrono::steady_clock::now();
    left -= std::min<std::chrono::nanoseconds>(now - std::exchange(last, now), 10ms);
  }
  EXPECT_FALSE(client_closed_);
  EXPECT_FALSE(server_closed_);
}

}  // namespace
}  // namespace qanat::hbone
