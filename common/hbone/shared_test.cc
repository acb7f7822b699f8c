// SPDX-License-Identifier: Apache-2.0
// Tunnels that no pod owns: only to peers that announce to take sources, and never waited for.
#include <gtest/gtest.h>

#include "common/hbone/frame.h"
#include "common/hbone/pool.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using testing::Party;
using testing::RunUntil;
using testing::Settle;

PoolKey SharedKey() {
  PoolKey key;
  key.source_identity = "spiffe://td/ns/a/sa/a";
  key.destination_identities = {"spiffe://td/ns/b/sa/b"};
  key.destination = {net::IpAddress::V4(0x0a000002), 15008};
  key.shared = true;
  return key;
}

TEST(TakesSourceTest, IsOneSettingThatOthersIgnore) {
  const auto apply = [](uint16_t id, uint32_t value) {
    const uint8_t raw[6] = {static_cast<uint8_t>(id >> 8),     static_cast<uint8_t>(id),
                            static_cast<uint8_t>(value >> 24), static_cast<uint8_t>(value >> 16),
                            static_cast<uint8_t>(value >> 8),  static_cast<uint8_t>(value)};
    Settings settings;
    EXPECT_EQ(ApplySettings(raw, settings), H2Error::kNoError);
    return settings.takes_source;
  };
  EXPECT_TRUE(apply(0xf515, 1));
  EXPECT_FALSE(apply(0xf515, 0));
  EXPECT_FALSE(apply(0xf515, 2));  // a version that we do not know
  EXPECT_FALSE(apply(0xf516, 1));
  EXPECT_FALSE(apply(0x15, 1));
}

class SharedTest : public ::testing::Test {
 protected:
  struct Peer {
    std::unique_ptr<ServerSession> session;
    std::vector<std::unique_ptr<Party>> users;
    std::vector<Responder> held;
  };
  struct Attempt : event::Deferred {
    Attempt(event::EventLoop& loop, std::function<void()> go) : timer(loop, std::move(go)) {
      timer.Start({});
    }
    event::Timer timer;
  };
  SharedTest() {
    PoolOptions options;
    options.max_streams = 2;
    pool_ = std::make_unique<Pool>(
        loop_, options,
        [this](const PoolKey&, std::function<void(Result<net::TransportPtr>)> done) {
          ++dials_;
          return std::make_unique<Attempt>(loop_, [this, done] {
            if (unreachable_) return done(Fail(Code::kUnavailable, "no way"));
            done(NewPeer());
          });
        });
  }
  net::TransportPtr NewPeer() {
    auto [a, b] = net::MakePipe(loop_);
    peers_.push_back(std::make_unique<Peer>());
    Peer* peer = peers_.back().get();
    SessionOptions options;
    options.takes_source = takes_;
    peer->session = std::make_unique<ServerSession>(
        std::move(b), options,
        ServerSession::Events{[this, peer](InboundConnect, Responder responder) {
                                if (hold_) return peer->held.push_back(std::move(responder));
                                peer->users.push_back(std::make_unique<Party>(responder.Accept()));
                              },
                              [](const CloseReason&) {}});
    return std::move(a);
  }
  struct Want {
    std::unique_ptr<PendingConnect> handle;
    std::optional<ClientSession::ConnectResult> result;
  };
  Want& Try() {
    wants_.push_back(std::make_unique<Want>());
    Want& want = *wants_.back();
    want.handle = pool_->TryConnect(
        SharedKey(), {"10.0.0.2:80", {{std::string(kSourceHeader), "10.0.0.1:4"}}},
        [&want](ClientSession::ConnectResult result) { want.result = std::move(result); });
    return want;
  }

  event::EventLoop loop_;
  bool takes_ = true, unreachable_ = false, hold_ = false;
  int dials_ = 0;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::unique_ptr<Pool> pool_;
  std::vector<std::unique_ptr<Want>> wants_;
};

TEST_F(SharedTest, OnlyOnATunnelThatIsThere) {
  EXPECT_EQ(Try().handle, nullptr);
  EXPECT_EQ(dials_, 0);
  pool_->Warm(SharedKey());
  EXPECT_EQ(Try().handle, nullptr);  // not yet
  pool_->Warm(SharedKey());
  Settle(loop_);
  EXPECT_EQ(dials_, 1) << "one is being made already";
  pool_->Warm(SharedKey());
  Settle(loop_);
  EXPECT_EQ(dials_, 1) << "one is there";
  Want& want = Try();
  ASSERT_NE(want.handle, nullptr);
  RunUntil(loop_, [&] { return want.result.has_value(); });
  ASSERT_TRUE(want.result->has_value());
  EXPECT_TRUE((*want.result)->peer_takes_source);
}

TEST_F(SharedTest, NotToAPeerThatTakesNoSources) {
  takes_ = false;
  pool_->Warm(SharedKey());
  Settle(loop_);
  EXPECT_EQ(dials_, 1);
  EXPECT_EQ(Try().handle, nullptr);
  RunUntil(loop_, [&] { return pool_->stats().tunnels == 0; });
  EXPECT_EQ(peers_[0]->users.size(), 0u) << "the tunnel went without a stream";
}

TEST_F(SharedTest, AFullTunnelIsNotWaitedFor) {
  pool_->Warm(SharedKey());
  Settle(loop_);
  for (int i = 0; i < 2; ++i) {
    Want& want = Try();
    ASSERT_NE(want.handle, nullptr);
    RunUntil(loop_, [&] { return want.result.has_value(); });
  }
  EXPECT_EQ(Try().handle, nullptr);
  pool_->Warm(SharedKey());
  Settle(loop_);
  EXPECT_EQ(dials_, 2);
  EXPECT_NE(Try().handle, nullptr);
}

TEST_F(SharedTest, WhatCannotBeReachedIsForgotten) {
  unreachable_ = true;
  pool_->Warm(SharedKey());
  Settle(loop_);
  EXPECT_EQ(Try().handle, nullptr);
  EXPECT_EQ(pool_->stats().dialing, 0u);
  unreachable_ = false;
  pool_->Warm(SharedKey());
  Settle(loop_);
  EXPECT_NE(Try().handle, nullptr);
}

// Its caller has another way, and is told at once.
TEST_F(SharedTest, AStreamThatThePeerDidNotProcessIsNotTriedAgain) {
  hold_ = true;
  pool_->Warm(SharedKey());
  Settle(loop_);
  Want& want = Try();
  ASSERT_NE(want.handle, nullptr);
  Settle(loop_);
  peers_[0]->session->Close("gone");
  RunUntil(loop_, [&] { return want.result.has_value(); });
  EXPECT_FALSE(want.result->has_value());
  Settle(loop_);
  EXPECT_EQ(dials_, 1);
}

// Of a pod's own tunnels: how old each is, and that the old ones are left.
TEST_F(SharedTest, ATunnelSaysWhenItWasMade) {
  PoolKey own = SharedKey();
  own.shared = false;
  own.destination_identities = {"spiffe://td/ns/c/sa/c", "spiffe://td/ns/b/sa/b"};
  const auto connect = [&]() -> ClientSession::ConnectResult {
    wants_.push_back(std::make_unique<Want>());
    Want& want = *wants_.back();
    want.handle = pool_->Connect(own, {"10.0.0.2:80", {}},
                                 [&want](auto result) { want.result = std::move(result); });
    RunUntil(loop_, [&] { return want.result.has_value(); });
    return std::move(*want.result);
  };
  const event::TimePoint before = loop_.now();
  ClientSession::ConnectResult first = connect();
  ASSERT_TRUE(first.has_value());
  const event::TimePoint made = first->tunnel_made;
  EXPECT_GE(made, before);
  EXPECT_LE(made, loop_.now());
  pool_->DrainOlder(own, made);
  EXPECT_EQ(connect()->tunnel_made, made);
  EXPECT_EQ(dials_, 1);
  pool_->DrainOlder(own, made + std::chrono::nanoseconds(1));
  const ClientSession::ConnectResult next = connect();
  EXPECT_EQ(dials_, 2);
  EXPECT_GT(next->tunnel_made, made);
  // Its streams went on.
  Party user(std::move(first->stream));
  user.Send("still");
  EXPECT_TRUE(RunUntil(loop_, [&] { return peers_[0]->users[0]->received == "still"; }));
}

}  // namespace
}  // namespace qanat::hbone
