// SPDX-License-Identifier: Apache-2.0
// A pool whose tunnels are busy with bulk: another tunnel is ready for the streams that come next.
#include <gtest/gtest.h>

#include "common/hbone/pool.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_bulk.h"
#include "common/hbone/test_link.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using testing::Drain;
using testing::LinkEnd;
using testing::RunUntil;
using testing::Settle;
using testing::Source;
using namespace std::chrono_literals;

constexpr uint64_t kMiB = 1 << 20;

class StripesTest : public ::testing::Test {
 protected:
  struct Peer {
    std::unique_ptr<ServerSession> session;
    std::vector<std::unique_ptr<Drain>> streams;
  };
  struct Attempt : event::Deferred {
    Attempt(event::EventLoop& loop, std::function<void()> go) : timer(loop, std::move(go)) {
      timer.Start(1ms);
    }
    event::Timer timer;
  };

  void Make(size_t stripes) {
    PoolOptions options;
    options.stripes = stripes;
    pool_ = std::make_unique<Pool>(
        loop_, options,
        [this](const PoolKey&, std::function<void(Result<net::TransportPtr>)> done) {
          return std::make_unique<Attempt>(loop_, [this, done] {
            if (fail_dials_) return done(Fail(Code::kUnavailable, "no way"));
            auto [a, b] = LinkEnd::Make(loop_, {});
            peers_.push_back(std::make_unique<Peer>());
            Peer* peer = peers_.back().get();
            peer->session = std::make_unique<ServerSession>(
                std::move(b), SessionOptions{},
                ServerSession::Events{[peer](const InboundConnect&, Responder responder) {
                                        peer->streams.push_back(
                                            std::make_unique<Drain>(responder.Accept()));
                                      },
                                      [](const CloseReason&) {}});
            done(std::move(a));
          });
        });
  }
  // A stream; the number of the peer (tunnel) that it went to.
  size_t Connect(uint64_t size) {
    std::vector<size_t> before;
    for (auto& peer : peers_) before.push_back(peer->streams.size());
    before.resize(100);
    std::optional<ClientSession::ConnectResult> result;
    auto handle = pool_->Connect({"a", {"b"}, {net::IpAddress::V4(1), 15008}, {}, 0},
                                 {"10.0.0.2:80", {}}, [&](auto r) { result = std::move(r); });
    EXPECT_TRUE(RunUntil(loop_, [&] { return result.has_value(); }));
    sources_.push_back(std::make_unique<Source>(std::move((*result)->stream), size));
    for (size_t i = 0; i < peers_.size(); ++i) {
      if (peers_[i]->streams.size() > before[i]) return i;
    }
    return 99;
  }
  // The stream has moved enough to be bulk and goes on.
  size_t ConnectBulk() {
    const size_t at = Connect(4096 * kMiB);
    Source& source = *sources_.back();
    EXPECT_TRUE(RunUntil(loop_, [&] { return source.left < 4078 * kMiB; }, 30s));
    Settle(loop_, 30);
    return at;
  }
  bool WaitForTunnels(size_t count) {
    return RunUntil(loop_, [&] { return pool_->stats().tunnels >= count; });
  }

  event::EventLoop loop_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::vector<std::unique_ptr<Source>> sources_;
  bool fail_dials_ = false;
  std::unique_ptr<Pool> pool_;
};

TEST_F(StripesTest, InteractiveDoesNotWaitBehindBulk) {
  Make(4);
  EXPECT_EQ(ConnectBulk(), 0u);
  ASSERT_TRUE(WaitForTunnels(2));
  EXPECT_EQ(pool_->stats().stripes, 1u);
  EXPECT_EQ(Connect(10), 1u);
  EXPECT_EQ(Connect(10), 1u);
  // The one that is bulk stays where it is.
  EXPECT_EQ(peers_[0]->streams.size(), 1u);
  EXPECT_EQ(peers_[0]->session->streams(), 1u);
  EXPECT_TRUE(peers_[0]->streams[0]->in_order);
}

TEST_F(StripesTest, AsManyAsAllowed) {
  Make(3);
  EXPECT_EQ(ConnectBulk(), 0u);
  ASSERT_TRUE(WaitForTunnels(2));
  EXPECT_EQ(ConnectBulk(), 1u);
  ASSERT_TRUE(WaitForTunnels(3));
  EXPECT_EQ(ConnectBulk(), 2u);
  Settle(loop_, 200);
  EXPECT_EQ(pool_->stats().tunnels, 3u);
  EXPECT_EQ(pool_->stats().stripes, 2u);
  EXPECT_LT(Connect(10), 3u);  // shares with one of them
}

TEST_F(StripesTest, NoneWithoutBulk) {
  Make(4);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Connect(kMiB), 0u);
  ASSERT_TRUE(RunUntil(loop_, [&] { return peers_[0]->session->streams() == 0; }));
  EXPECT_EQ(pool_->stats().dialed, 1u);
}

TEST_F(StripesTest, OneMeansOne) {
  Make(1);
  ConnectBulk();
  EXPECT_EQ(Connect(10), 0u);
  EXPECT_EQ(pool_->stats().dialed, 1u);
}

TEST_F(StripesTest, AStripeThatCannotBeMadeHurtsNobody) {
  Make(4);
  const size_t first = Connect(4096 * kMiB);
  fail_dials_ = true;
  ASSERT_TRUE(RunUntil(loop_, [&] { return pool_->stats().failed == 1; }, 30s));
  EXPECT_EQ(Connect(10), first);
  Settle(loop_, 200);
  EXPECT_EQ(pool_->stats().failed, 1u);  // not again and again
  EXPECT_FALSE(sources_[0]->broken);
}

}  // namespace
}  // namespace qanat::hbone
