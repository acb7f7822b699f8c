// SPDX-License-Identifier: Apache-2.0
// A stream's first bytes go along with its request: only to who announced to take them, kept there
// until the answer, dropped with a refusal, and said again to the next tunnel that is asked.
#include <gtest/gtest.h>

#include <deque>
#include <thread>

#include "common/hbone/pool.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using testing::Party;
using testing::RawPeer;
using testing::RunUntil;
using testing::Settle;
using namespace std::chrono_literals;

TEST(TakesEarlyTest, IsOneSettingThatOthersIgnore) {
  const auto apply = [](uint16_t id, uint8_t value) {
    const uint8_t raw[6] = {
        static_cast<uint8_t>(id >> 8), static_cast<uint8_t>(id), 0, 0, 0, value};
    Settings settings;
    EXPECT_EQ(ApplySettings(raw, settings), H2Error::kNoError);
    return settings.takes_early;
  };
  EXPECT_TRUE(apply(0xf516, 1));
  EXPECT_FALSE(apply(0xf516, 0));
  EXPECT_FALSE(apply(0xf516, 2));  // a version that we do not know
  EXPECT_FALSE(apply(0xf515, 1));
}

// Our client and a server by hand.
class EarlyClientTest : public ::testing::Test {
 protected:
  void Start(std::vector<std::pair<SettingId, uint32_t>> settings) {
    auto [a, b] = net::MakePipe(loop_);
    client_ = std::make_unique<ClientSession>(std::move(a), SessionOptions(),
                                              ClientSession::Events{nullptr, nullptr});
    peer_ = std::make_unique<RawPeer>(std::move(b), true);
    peer_->Hello(false, std::move(settings));
    RunUntil(loop_, [&] { return client_->settings_seen(); });
  }
  void Connect() {
    ConnectRequest request{"10.0.0.1:80", {}, [this] {
                             ++asked_;
                             return std::span(reinterpret_cast<const uint8_t*>(first_.data()),
                                              first_.size());
                           }};
    pending_ = client_->Connect(request, [this](auto result) { result_ = std::move(result); });
    RunUntil(loop_, [&] { return peer_->Find(kHeaders, 1) != nullptr; });
    Settle(loop_);
  }

  event::EventLoop loop_;
  std::string first_ = "GET / HTTP/1.1\r\n\r\n";
  int asked_ = 0;
  std::unique_ptr<ClientSession> client_;
  std::unique_ptr<RawPeer> peer_;
  std::unique_ptr<PendingConnect> pending_;
  std::optional<ClientSession::ConnectResult> result_;
};

TEST_F(EarlyClientTest, StockPeersSeeNothingBeforeTheyAnswered) {
  Start({});
  Connect();
  EXPECT_EQ(peer_->Find(kData, 1), nullptr);
  EXPECT_EQ(asked_, 0);
  peer_->SendHeaders(1, {{":status", "200"}});
  ASSERT_TRUE(RunUntil(loop_, [&] { return result_.has_value(); }));
  EXPECT_EQ((*result_)->early, 0u);
}

TEST_F(EarlyClientTest, GoAlongToWhoTakesThem) {
  Start({{kSettingTakesEarly, 1}});
  Connect();
  const RawPeer::Frame* data = peer_->Find(kData, 1);
  ASSERT_NE(data, nullptr);
  EXPECT_EQ(data->payload, first_);
  EXPECT_FALSE(data->header.has(kFlagEndStream));
  peer_->SendHeaders(1, {{":status", "200"}});
  ASSERT_TRUE(RunUntil(loop_, [&] { return result_.has_value(); }));
  ASSERT_TRUE(result_->has_value());
  EXPECT_EQ((*result_)->early, first_.size());
  Party user(std::move((*result_)->stream));
  user.Send("more");
  ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->Count(kData) == 2; }));
}

TEST_F(EarlyClientTest, NothingIsNoFrame) {
  first_.clear();
  Start({{kSettingTakesEarly, 1}});
  Connect();
  EXPECT_EQ(asked_, 1);
  EXPECT_EQ(peer_->Find(kData, 1), nullptr);
}

TEST_F(EarlyClientTest, NotWhereTheWindowIsTooSmall) {
  Start({{kSettingTakesEarly, 1}, {kSettingInitialWindow, kMostEarly - 1}});
  Connect();
  EXPECT_EQ(asked_, 0);
  EXPECT_EQ(peer_->Find(kData, 1), nullptr);
}

TEST_F(EarlyClientTest, NotToAPeerThatMayBeGone) {
  Start({{kSettingTakesEarly, 1}});
  std::this_thread::sleep_for(300ms);
  Settle(loop_, 1);
  Connect();
  EXPECT_EQ(asked_, 0) << "what it got could not be given to another one";
}

TEST_F(EarlyClientTest, SentBytesCountInTheWindow) {
  Start({{kSettingTakesEarly, 1}, {kSettingInitialWindow, kMostEarly}});
  first_.assign(kMostEarly, 'x');
  Connect();
  ASSERT_NE(peer_->Find(kData, 1), nullptr);
  peer_->SendHeaders(1, {{":status", "200"}});
  ASSERT_TRUE(RunUntil(loop_, [&] { return result_.has_value(); }));
  Party user(std::move((*result_)->stream));
  user.Send("y");
  Settle(loop_);
  EXPECT_EQ(user.blocked, 1);
  EXPECT_EQ(peer_->Count(kData), 1u);
}

// Both ends of ours, through a pool.
class EarlyTest : public ::testing::Test {
 protected:
  struct Attempt : event::Deferred {
    Attempt(event::EventLoop& loop, std::function<void()> go) : timer(loop, std::move(go)) {
      timer.Start({});
    }
    event::Timer timer;
  };
  EarlyTest() {
    options_.takes_early = true;
    pool_ = std::make_unique<Pool>(
        loop_, PoolOptions(),
        [this](const PoolKey&, std::function<void(Result<net::TransportPtr>)> done) {
          return std::make_unique<Attempt>(loop_, [this, done] {
            auto [a, b] = net::MakePipe(loop_);
            servers_.push_back(std::make_unique<ServerSession>(
                std::move(b), options_,
                ServerSession::Events{[this](InboundConnect, Responder responder) {
                                        held_.push_back(std::move(responder));
                                      },
                                      [](const CloseReason&) {}}));
            done(std::move(a));
          });
        });
    // The first one makes the tunnel, whose peer is known from then on.
    Connect("");
    Answer(200);
  }
  void Connect(std::string first) {
    first_ = std::move(first);
    ConnectRequest request{"10.0.0.1:80", {}, [this] {
                             ++asked_;
                             return std::span(reinterpret_cast<const uint8_t*>(first_.data()),
                                              first_.size());
                           }};
    result_.reset();
    const size_t before = held_.size();
    pending_ = pool_->Connect({}, std::move(request),
                              [this](auto result) { result_ = std::move(result); });
    ASSERT_TRUE(RunUntil(loop_, [&] { return held_.size() > before; }));
    Settle(loop_);
  }
  void Answer(int status) {
    Responder responder = std::move(held_.front());
    held_.pop_front();
    if (status == 200) {
      users_.push_back(std::make_unique<Party>(responder.Accept()));
    } else {
      responder.Reject(status);
    }
    ASSERT_TRUE(RunUntil(loop_, [&] { return result_.has_value(); }));
  }

  event::EventLoop loop_;
  SessionOptions options_;
  std::vector<std::unique_ptr<ServerSession>> servers_;
  std::deque<Responder> held_;
  std::vector<std::unique_ptr<Party>> users_;
  std::unique_ptr<Pool> pool_;
  std::string first_;
  int asked_ = 0;
  std::unique_ptr<PendingConnect> pending_;
  std::optional<ClientSession::ConnectResult> result_;
};

TEST_F(EarlyTest, AreKeptUntilTheAnswer) {
  Connect("first");
  EXPECT_EQ(asked_, 1);
  EXPECT_EQ(servers_[0]->stats().unread, 5u);
  Answer(200);
  ASSERT_TRUE(result_->has_value());
  EXPECT_EQ((*result_)->early, 5u);
  Party client(std::move((*result_)->stream));
  client.Send(" second");
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_[1]->received == "first second"; }));
}

TEST_F(EarlyTest, ARefusalDropsThem) {
  Connect(std::string(kMostEarly, 'x'));
  Answer(503);
  ASSERT_TRUE(result_->has_value());
  EXPECT_EQ((*result_)->status, 503);
  EXPECT_EQ(servers_[0]->stats().unread, 0u);
  // Nothing of the connection's window is lost with them, however often.
  for (int i = 0; i < 64; ++i) {
    Connect(std::string(kMostEarly, 'x'));
    Answer(401);
  }
  Connect("still there");
  Answer(200);
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_[1]->received == "still there"; }));
}

TEST_F(EarlyTest, WhoWaitsNoLongerTakesThemBack) {
  Connect("never mind");
  pending_.reset();
  Settle(loop_);
  EXPECT_EQ(held_.front().Accept(), nullptr);
  EXPECT_EQ(servers_[0]->stats().unread, 0u);
}

TEST_F(EarlyTest, ATunnelThatBreaksTellsOfDoubt) {
  Connect("who knows");
  servers_[0]->Close("gone");
  ASSERT_TRUE(RunUntil(loop_, [&] { return result_.has_value(); }));
  ASSERT_FALSE(result_->has_value());
  EXPECT_FALSE(result_->error().retry_safe);
}

TEST_F(EarlyTest, AnotherTunnelGetsTheSame) {
  options_.max_concurrent_streams = 1;
  servers_[0]->Drain();  // the next one is made, and allows one stream
  Settle(loop_);
  Connect("");
  Answer(200);
  ASSERT_EQ(servers_.size(), 2u);
  servers_[1]->Drain();
  Settle(loop_, 1);
  // Sent to a tunnel that is leaving or to a new one: where it was refused it is said again, and
  // only one server has it in the end.
  Connect("once");
  Answer(200);
  ASSERT_TRUE(result_->has_value());
  if ((*result_)->early == 0) {  // the new tunnel had not announced anything yet
    Party client(std::move((*result_)->stream));
    client.Send("once");
    ASSERT_TRUE(RunUntil(loop_, [&] { return users_.back()->received == "once"; }));
  } else {
    ASSERT_TRUE(RunUntil(loop_, [&] { return users_.back()->received == "once"; }));
  }
  for (const auto& server : servers_) EXPECT_EQ(server->stats().unread, 0u);
}

}  // namespace
}  // namespace qanat::hbone
