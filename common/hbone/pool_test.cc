// SPDX-License-Identifier: Apache-2.0
#include "common/hbone/pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/hbone/server_session.h"
#include "common/hbone/test_peer.h"
#include "common/tls/test_certs.h"

namespace qanat::hbone {
namespace {

using net::IoResult;
using ::testing::HasSubstr;
using testing::Party;
using testing::RunUntil;
using testing::Settle;
using namespace std::chrono_literals;

PoolKey Key(std::string source = "spiffe://td/ns/a/sa/a", uint32_t ip = 0x0a000001) {
  return {std::move(source),
          {"spiffe://td/ns/b/sa/b"},
          {net::IpAddress::V4(0x0a000002), 15008},
          net::IpAddress::V4(ip)};
}

// A dialer whose other ends are sessions that accept and echo.
class PoolTest : public ::testing::Test {
 protected:
  struct Peer {
    std::unique_ptr<ServerSession> session;
    std::vector<std::unique_ptr<Party>> users;
    bool closed = false;
  };
  struct Attempt : event::Deferred {
    Attempt(event::EventLoop& loop, std::function<void()> go) : timer(loop, std::move(go)) {}
    ~Attempt() override {
      if (on_cancel) on_cancel();
    }
    event::Timer timer;
    std::function<void()> on_cancel;
  };

  Pool& Make(PoolOptions options = {}) {
    pool_ = std::make_unique<Pool>(
        loop_, options,
        [this](const PoolKey& key, std::function<void(Result<net::TransportPtr>)> done) {
          dialed_.push_back(key);
          auto attempt = std::make_unique<Attempt>(loop_, [this, done] {
            if (dial_error_) return done(Fail(*dial_error_));
            done(NewPeer());
          });
          if (!hang_) attempt->timer.Start(dial_delay_);
          attempt->on_cancel = [this] { ++dials_ended_; };
          return attempt;
        });
    return *pool_;
  }
  net::TransportPtr NewPeer() {
    auto [a, b] = net::MakePipe(loop_);
    peers_.push_back(std::make_unique<Peer>());
    Peer* peer = peers_.back().get();
    SessionOptions options;
    options.max_concurrent_streams = peer_streams_;
    peer->session = std::make_unique<ServerSession>(
        std::move(b), options,
        ServerSession::Events{[peer](InboundConnect, Responder responder) {
                                peer->users.push_back(std::make_unique<Party>(responder.Accept()));
                                peer->users.back()->echo = true;
                              },
                              [peer](const CloseReason&) { peer->closed = true; }});
    return std::move(a);
  }
  struct Want {
    std::unique_ptr<PendingConnect> handle;
    std::optional<ClientSession::ConnectResult> result;
    bool ok() const { return result && *result && (*result)->stream; }
  };
  Want& Connect(const PoolKey& key) {
    wants_.push_back(std::make_unique<Want>());
    Want* want = wants_.back().get();
    want->handle =
        pool_->Connect(key, {"10.0.0.2:80", {}}, [want](auto r) { want->result = std::move(r); });
    EXPECT_FALSE(want->result);  // never from inside
    return *want;
  }

  event::EventLoop loop_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::vector<PoolKey> dialed_;
  std::vector<std::unique_ptr<Want>> wants_;
  std::optional<Error> dial_error_;
  std::chrono::milliseconds dial_delay_{1};
  bool hang_ = false;
  int dials_ended_ = 0;
  uint32_t peer_streams_ = 200;
  std::unique_ptr<Pool> pool_;
};

TEST_F(PoolTest, WaitersShareOneDial) {
  Make();
  for (int i = 0; i < 20; ++i) Connect(Key());
  Settle(loop_);
  EXPECT_EQ(pool_->stats().waiting, 20u);
  ASSERT_TRUE(RunUntil(loop_, [&] {
    return std::all_of(wants_.begin(), wants_.end(), [](auto& w) { return w->result.has_value(); });
  }));
  for (auto& want : wants_) EXPECT_TRUE(want->ok());
  EXPECT_EQ(dialed_.size(), 1u);
  EXPECT_EQ(pool_->stats().tunnels, 1u);
  // The next one finds it.
  Want& next = Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return next.ok(); }));
  EXPECT_EQ(dialed_.size(), 1u);
}

TEST_F(PoolTest, WhatDiffersHasItsOwnTunnel) {
  Make();
  PoolKey twisted = Key();
  twisted.destination_identities = {"z", "a"};
  PoolKey sorted = Key();
  sorted.destination_identities = {"a", "z"};
  Connect(Key());
  Connect(Key("spiffe://td/ns/a/sa/other"));
  Connect(Key("spiffe://td/ns/a/sa/a", 0x0a000009));
  Connect(twisted);
  Connect(sorted);  // the same as the one before
  ASSERT_TRUE(RunUntil(loop_, [&] {
    return std::all_of(wants_.begin(), wants_.end(), [](auto& w) { return w->ok(); });
  }));
  EXPECT_EQ(dialed_.size(), 4u);
}

TEST_F(PoolTest, FullTunnelsGetANeighbour) {
  PoolOptions options;
  options.max_streams = 3;
  Make(options);
  for (int i = 0; i < 7; ++i) Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] {
    return std::all_of(wants_.begin(), wants_.end(), [](auto& w) { return w->ok(); });
  }));
  EXPECT_EQ(pool_->stats().tunnels, 3u);
  // Room comes back when streams end.
  for (int i = 0; i < 3; ++i) wants_[static_cast<size_t>(i)]->result.reset();
  Settle(loop_);
  Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return wants_.back()->ok(); }));
  EXPECT_EQ(dialed_.size(), 3u);
}

TEST_F(PoolTest, ThePeersLimitCountsToo) {
  peer_streams_ = 2;
  Make();
  for (int i = 0; i < 5; ++i) Connect(Key());
  // All five go out before the peer's SETTINGS are known; what it refuses finds another tunnel.
  ASSERT_TRUE(RunUntil(loop_, [&] {
    return std::all_of(wants_.begin(), wants_.end(), [](auto& w) { return w->result.has_value(); });
  }));
  for (auto& want : wants_) EXPECT_TRUE(want->ok());
  Want& later = Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return later.result.has_value(); }));
  EXPECT_TRUE(later.ok());
}

// None of them may fail: what a peer refuses for a limit that it has not announced yet goes to
// further tunnels, and these get no more than the limit.
TEST_F(PoolTest, ABurstAtAPeerThatTakesFewStreams) {
  peer_streams_ = 2;
  Make();
  for (int i = 0; i < 41; ++i) Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] {
    return std::all_of(wants_.begin(), wants_.end(), [](auto& w) { return w->result.has_value(); });
  }));
  for (auto& want : wants_) EXPECT_TRUE(want->ok());
  EXPECT_EQ(pool_->stats().tunnels, 21u);
  EXPECT_EQ(pool_->stats().refused, 39u);  // of the first tunnel only
  EXPECT_EQ(pool_->stats().retried, 39u);
  for (auto& peer : peers_) EXPECT_LE(peer->users.size(), 2u);
}

TEST_F(PoolTest, StreamsWaitInLineForRoom) {
  PoolOptions options;
  options.max_streams = 2;
  options.max_tunnels = 2;
  options.connect_timeout = 2s;
  Make(options);
  for (int i = 0; i < 6; ++i) Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return wants_[3]->ok(); }));
  EXPECT_EQ(pool_->stats().waiting, 2u);
  wants_[0]->result.reset();  // the stream ends
  ASSERT_TRUE(RunUntil(loop_, [&] { return wants_[4]->ok(); }));
  EXPECT_FALSE(wants_[5]->result);
  // Not for ever.
  ASSERT_TRUE(RunUntil(loop_, [&] { return wants_[5]->result.has_value(); }));
  ASSERT_FALSE(*wants_[5]->result);
  EXPECT_EQ(wants_[5]->result->error().error.code, Code::kDeadlineExceeded);
  EXPECT_THAT(wants_[5]->result->error().error.message, HasSubstr("full"));
  EXPECT_EQ(pool_->stats().expired, 1u);
  EXPECT_EQ(pool_->stats().waiting, 0u);
  EXPECT_EQ(dialed_.size(), 2u);
}

// While others are full, a failed dial is no reason to refuse who waits.
TEST_F(PoolTest, AFailedDialBesideGoodTunnelsIsNotTheEnd) {
  PoolOptions options;
  options.max_streams = 1;
  Make(options);
  Want& first = Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return first.ok(); }));
  dial_error_ = Error{Code::kUnavailable, "the peer takes no more connections", 0};
  Want& second = Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return pool_->stats().failed == 1; }));
  Settle(loop_);
  EXPECT_FALSE(second.result);
  first.result.reset();
  ASSERT_TRUE(RunUntil(loop_, [&] { return second.ok(); }));
  EXPECT_EQ(pool_->stats().tunnels, 1u);
}

// The pause after a failed dial is for who has other tunnels to wait for.
TEST_F(PoolTest, WithTheLastTunnelGoneTheNextIsDialedAtOnce) {
  PoolOptions options;
  options.max_streams = 1;
  Make(options);
  Want& first = Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return first.ok(); }));
  dial_error_ = Error{Code::kUnavailable, "the peer takes no more connections", 0};
  Want& second = Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return pool_->stats().failed == 1; }));
  dial_error_.reset();
  peers_[0]->session.reset();
  // Rounds of a millisecond, less in all than the pause.
  for (int i = 0; i < 500 && !second.ok(); ++i) loop_.RunOnce(1ms);
  ASSERT_TRUE(second.ok());
}

// A limit of none at all is not an invitation to dial again and again.
TEST_F(PoolTest, APeerThatTakesNoStreams) {
  peer_streams_ = 0;
  PoolOptions options;
  options.connect_timeout = 100ms;
  Make(options);
  for (int i = 0; i < 3; ++i) Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] {
    return std::all_of(wants_.begin(), wants_.end(), [](auto& w) { return w->result.has_value(); });
  }));
  for (auto& want : wants_) EXPECT_FALSE(want->ok());
  EXPECT_EQ(dialed_.size(), 1u);
}

TEST_F(PoolTest, DialErrorsReachAllWaiters) {
  dial_error_ = Error{Code::kUnauthenticated, "wrong root", 0};
  Make();
  Connect(Key());
  Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return wants_[0]->result && wants_[1]->result; }));
  for (auto& want : wants_) EXPECT_EQ(want->result->error().error.message, "wrong root");
  EXPECT_EQ(pool_->stats().failed, 1u);
  // Not remembered: the next one tries again.
  dial_error_.reset();
  Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return wants_.back()->result.has_value(); }));
  EXPECT_TRUE(wants_.back()->ok());
}

TEST_F(PoolTest, ConnectTimeoutHints) {
  hang_ = true;
  PoolOptions options;
  options.connect_timeout = 20ms;
  Make(options);
  Want& want = Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return want.result.has_value(); }));
  EXPECT_EQ(want.result->error().error.code, Code::kDeadlineExceeded);
  EXPECT_THAT(want.result->error().error.message, HasSubstr("NetworkPolicy"));
  EXPECT_THAT(want.result->error().error.message, HasSubstr("15008"));
  Settle(loop_);
  EXPECT_EQ(dials_ended_, 1);
}

TEST_F(PoolTest, CancelledWaitersAreForgotten) {
  Make();
  Want& gone = Connect(Key());
  Want& stays = Connect(Key());
  gone.handle.reset();
  ASSERT_TRUE(RunUntil(loop_, [&] { return stays.ok(); }));
  EXPECT_FALSE(gone.result);
  EXPECT_EQ(peers_[0]->users.size(), 1u);
}

TEST_F(PoolTest, IdleTunnelsAreReleased) {
  PoolOptions options;
  options.idle_release = 30ms;
  Make(options);
  Want& want = Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return want.ok(); }));
  auto end = std::chrono::steady_clock::now() + 80ms;
  while (std::chrono::steady_clock::now() < end) loop_.RunOnce(5ms);
  EXPECT_EQ(pool_->stats().tunnels, 1u);  // in use
  want.result.reset();
  ASSERT_TRUE(RunUntil(loop_, [&] { return pool_->stats().tunnels == 0; }));
  ASSERT_TRUE(RunUntil(loop_, [&] { return peers_[0]->closed; }));
}

TEST_F(PoolTest, DrainingPeerIsReplaced) {
  Make();
  Want& first = Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return first.ok(); }));
  Party user(std::move((*first.result)->stream));
  peers_[0]->session->Drain();
  Settle(loop_);
  Want& second = Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return second.ok(); }));
  EXPECT_EQ(dialed_.size(), 2u);
  user.Send("the old one works on");
  user.Finish();
  ASSERT_TRUE(RunUntil(loop_, [&] { return user.end.has_value(); }));
  EXPECT_EQ(user.received, "the old one works on");
  ASSERT_TRUE(RunUntil(loop_, [&] { return pool_->stats().tunnels == 1; }));
}

TEST_F(PoolTest, StreamsThatAGoawayRefusedAreRetried) {
  // The first peer is made by hand: it takes nothing and says so.
  std::unique_ptr<testing::RawPeer> first;
  int dials = 0;
  pool_ = std::make_unique<Pool>(
      loop_, PoolOptions{},
      [&](const PoolKey&, std::function<void(Result<net::TransportPtr>)> done) {
        auto attempt = std::make_unique<Attempt>(loop_, [&, done] {
          if (++dials > 1) return done(NewPeer());
          auto [a, b] = net::MakePipe(loop_);
          first = std::make_unique<testing::RawPeer>(std::move(b), true);
          first->Hello(false);
          done(std::move(a));
        });
        attempt->timer.Start(1ms);
        return attempt;
      });
  Want& want = Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return first && first->Find(kHeaders, 1) != nullptr; }));
  first->SendFrame(kGoaway, 0, 0, std::string(8, '\0'));
  ASSERT_TRUE(RunUntil(loop_, [&] { return want.ok(); }));
  EXPECT_EQ(dials, 2);
}

TEST_F(PoolTest, TunnelsThatBreakAreCountedAndThoseThatEndAreNot) {
  std::vector<std::unique_ptr<testing::RawPeer>> peers;
  pool_ = std::make_unique<Pool>(
      loop_, PoolOptions{},
      [&](const PoolKey&, std::function<void(Result<net::TransportPtr>)> done) {
        auto attempt = std::make_unique<Attempt>(loop_, [&, done] {
          auto [a, b] = net::MakePipe(loop_);
          peers.push_back(std::make_unique<testing::RawPeer>(std::move(b), true));
          peers.back()->Hello(false);
          done(std::move(a));
        });
        attempt->timer.Start(1ms);
        return attempt;
      });
  const auto tunnels = [&] { return pool_->stats().tunnels; };
  Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return !peers.empty() && peers[0]->Find(kHeaders, 1); }));
  peers[0]->SendFrame(kGoaway, 0, 0, std::string("\0\0\0\1\0\0\0\2", 8));  // INTERNAL_ERROR
  peers[0]->transport().ShutdownWrite();
  ASSERT_TRUE(RunUntil(loop_, [&] { return tunnels() == 0; }));
  EXPECT_EQ(pool_->stats().broken, 1u);
  Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return peers.size() == 2 && tunnels() == 1; }));
  pool_->Close([](const PoolKey&) { return true; }, "enough");
  ASSERT_TRUE(RunUntil(loop_, [&] { return tunnels() == 0; }));
  EXPECT_EQ(pool_->stats().broken, 1u);
}

TEST_F(PoolTest, LostTunnelIsReplaced) {
  Make();
  Want& first = Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return first.ok(); }));
  Party user(std::move((*first.result)->stream));
  peers_[0]->session.reset();
  ASSERT_TRUE(RunUntil(loop_, [&] { return user.end.has_value(); }));
  EXPECT_EQ(*user.end, IoResult::Kind::kReset);
  Want& second = Connect(Key());
  ASSERT_TRUE(RunUntil(loop_, [&] { return second.ok(); }));
  EXPECT_EQ(pool_->stats().tunnels, 1u);
}

TEST_F(PoolTest, DrainAndCloseByKey) {
  Make();
  Connect(Key());
  Connect(Key("spiffe://td/ns/a/sa/other"));
  ASSERT_TRUE(RunUntil(loop_, [&] { return wants_[0]->ok() && wants_[1]->ok(); }));
  Party a(std::move((*wants_[0]->result)->stream));
  Party b(std::move((*wants_[1]->result)->stream));
  pool_->Drain([](const PoolKey& key) { return key.source_identity.ends_with("other"); });
  Want& again = Connect(Key("spiffe://td/ns/a/sa/other"));
  ASSERT_TRUE(RunUntil(loop_, [&] { return again.ok(); }));
  EXPECT_EQ(dialed_.size(), 3u);
  pool_->Close([](const PoolKey& key) { return !key.source_identity.ends_with("other"); },
               "revoked");
  ASSERT_TRUE(RunUntil(loop_, [&] { return a.end.has_value(); }));
  EXPECT_EQ(*a.end, IoResult::Kind::kReset);
  EXPECT_EQ(a.transport().error(), "revoked");
  EXPECT_FALSE(b.end);
}

TEST_F(PoolTest, DestroyedPoolTellsEverybody) {
  hang_ = true;
  Make();
  Want& waiting = Connect(Key());
  Settle(loop_);
  pool_.reset();
  ASSERT_TRUE(waiting.result);
  EXPECT_FALSE(*waiting.result);
  EXPECT_EQ(dials_ended_, 1);
}

// The usual dialer over real sockets and TLS.
TEST(TlsDial, ReachesTheExpectedIdentityOnly) {
  event::EventLoop loop;
  auto ca = tls::testing::TestCa::Make();
  constexpr char kServer[] = "spiffe://cluster.local/ns/b/sa/b";
  auto server_context = ca.Context(kServer);
  net::ListenOptions listen;
  listen.address = {net::IpAddress::V4(0x7f000001), 0};
  auto fd = net::Listen(listen);
  ASSERT_TRUE(fd);
  std::unique_ptr<tls::TlsHandshake> handshake;
  std::unique_ptr<ServerSession> session;
  std::vector<std::unique_ptr<Party>> users;
  std::string client_seen;
  net::Acceptor acceptor(loop, std::move(*fd), [&](Fd accepted, net::SocketAddress) {
    tls::HandshakeOptions options;
    options.role = tls::Role::kServer;
    handshake = std::make_unique<tls::TlsHandshake>(
        net::MakeSocketTransport(loop, std::move(accepted)), server_context, options,
        [&](Result<tls::TlsConnection> result) {
          if (!result) return;
          client_seen = result->peer.identity;
          session = std::make_unique<ServerSession>(
              std::move(result->transport), SessionOptions{},
              ServerSession::Events{[&](InboundConnect, Responder responder) {
                                      users.push_back(std::make_unique<Party>(responder.Accept()));
                                      users.back()->echo = true;
                                    },
                                    [](const CloseReason&) {}});
        });
  });
  auto client_context = ca.Context("spiffe://cluster.local/ns/a/sa/a");
  bool have_certificate = true;
  Pool pool(loop, {}, MakeTlsDial(loop, [&](const PoolKey&) -> Result<DialPlan> {
              if (!have_certificate) return Fail(Code::kUnavailable, "no certificate yet");
              return DialPlan{client_context, {}};
            }));
  auto connect = [&](std::string expected) {
    std::optional<ClientSession::ConnectResult> result;
    auto handle = pool.Connect(
        {"spiffe://cluster.local/ns/a/sa/a", {expected}, acceptor.local_address(), {}, 0},
        {"10.0.0.2:80", {}}, [&](auto r) { result = std::move(r); });
    RunUntil(loop, [&] { return result.has_value(); });
    return result;
  };
  auto good = connect(kServer);
  ASSERT_TRUE(good && *good);
  EXPECT_EQ(client_seen, "spiffe://cluster.local/ns/a/sa/a");
  Party user(std::move((*good)->stream));
  std::string data(5 << 20, 'q');
  user.Send(data);
  user.Finish();
  ASSERT_TRUE(RunUntil(loop, [&] { return user.end.has_value(); }, 20s));
  EXPECT_TRUE(user.received == data);

  auto wrong = connect("spiffe://cluster.local/ns/b/sa/somebody-else");
  ASSERT_TRUE(wrong && !*wrong);
  EXPECT_EQ(wrong->error().error.code, Code::kUnauthenticated);
  EXPECT_THAT(wrong->error().error.message, HasSubstr("somebody-else"));
  have_certificate = false;
  auto none = connect("spiffe://cluster.local/ns/b/sa/third");
  EXPECT_EQ(none->error().error.message, "no certificate yet");
}

}  // namespace
}  // namespace qanat::hbone
