// SPDX-License-Identifier: Apache-2.0
// A tunnel leaves one pool, with its streams, and another one goes on with it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/hbone/pool.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using testing::Party;
using testing::RunUntil;
using testing::Settle;

const PoolKey kKey = {"spiffe://td/ns/a/sa/a",
                      {"spiffe://td/ns/b/sa/b"},
                      {net::IpAddress::V4(0x0a000002), 15008},
                      net::IpAddress::V4(0x0a000001)};

class PoolHandoverTest : public ::testing::Test {
 protected:
  struct Never : event::Deferred {};
  struct Soon : event::Deferred {
    Soon(event::EventLoop& loop, std::function<void()> go) : timer(loop, std::move(go)) {
      timer.Start({});
    }
    event::Timer timer;
  };
  // One peer for the first pool; a second dial has none.
  std::unique_ptr<Pool> Make() {
    return std::make_unique<Pool>(
        loop_, PoolOptions{},
        [this](const PoolKey&, std::function<void(Result<net::TransportPtr>)> done)
            -> std::unique_ptr<event::Deferred> {
          if (++dials_ > 1) return std::make_unique<Never>();
          auto [a, b] = net::MakePipe(loop_);
          server_ = std::make_unique<ServerSession>(
              std::move(b), SessionOptions{},
              ServerSession::Events{[this](InboundConnect, Responder responder) {
                                      users_.push_back(std::make_unique<Party>(responder.Accept()));
                                      users_.back()->echo = true;
                                    },
                                    [this](const CloseReason&) { ended_ = true; }});
          auto held = std::make_shared<net::TransportPtr>(std::move(a));
          return std::make_unique<Soon>(loop_, [done, held] { done(std::move(*held)); });
        });
  }
  std::unique_ptr<Party> Connect(Pool& pool) {
    net::TransportPtr stream;
    auto pending = pool.Connect(kKey, {"10.0.0.2:80", {}}, [&](auto result) {
      if (result) stream = std::move(result->stream);
    });
    RunUntil(loop_, [&] { return stream != nullptr; });
    return stream == nullptr ? nullptr : std::make_unique<Party>(std::move(stream));
  }

  event::EventLoop loop_;
  int dials_ = 0;
  bool ended_ = false;
  std::unique_ptr<ServerSession> server_;
  std::vector<std::unique_ptr<Party>> users_;
};

TEST_F(PoolHandoverTest, ATunnelGoesFromOneToAnother) {
  auto first = Make();
  auto second = Make();
  auto user = Connect(*first);
  ASSERT_NE(user, nullptr);
  user->Send("before");
  ASSERT_TRUE(RunUntil(loop_, [&] { return user->received == "before"; }));
  const auto tunnels = first->Tunnels();
  ASSERT_EQ(tunnels.size(), 1u);
  ASSERT_NE(first->Find(tunnels[0]), nullptr);
  const auto handles = first->Find(tunnels[0])->Freezable();
  ASSERT_TRUE(handles.has_value());
  EXPECT_THAT(*handles, ::testing::ElementsAre(&user->transport()));
  Pool::Standing standing = first->Take(tunnels[0]);
  EXPECT_EQ(standing.key, kKey);
  EXPECT_TRUE(first->Tunnels().empty());
  EXPECT_EQ(first->Find(tunnels[0]), nullptr);
  EXPECT_EQ(first->stats().tunnels, 0u);
  user.reset();
  first.reset();  // its end is not the tunnel's
  Settle(loop_);
  EXPECT_FALSE(ended_);
  std::vector<net::TransportPtr> streams;
  const uint64_t number = second->Adopt(std::move(standing), streams);
  ASSERT_EQ(streams.size(), 1u);
  EXPECT_THAT(second->Tunnels(), ::testing::ElementsAre(number));
  EXPECT_EQ(second->stats().tunnels, 1u);
  Party again(std::move(streams[0]));
  again.Send("after");
  ASSERT_TRUE(RunUntil(loop_, [&] { return again.received == "after"; }));
  // New streams use it: nobody dials.
  auto more = Connect(*second);
  ASSERT_NE(more, nullptr);
  EXPECT_EQ(dials_, 1);
  EXPECT_EQ(second->Find(number)->made(), event::TimePoint::min()) << "not by this process";
  more->Send("new");
  ASSERT_TRUE(RunUntil(loop_, [&] { return more->received == "new"; }));
  EXPECT_EQ(users_.size(), 2u);
}

TEST_F(PoolHandoverTest, OneThatWasLeavingLeaves) {
  auto first = Make();
  auto second = Make();
  auto user = Connect(*first);
  ASSERT_NE(user, nullptr);
  const uint64_t tunnel = first->Tunnels().at(0);
  ASSERT_TRUE(RunUntil(loop_, [&] { return first->Find(tunnel)->Freezable().has_value(); }));
  Pool::Standing standing = first->Take(tunnel);
  user.reset();
  standing.leaving = true;  // its root is not believed any more
  std::vector<net::TransportPtr> streams;
  second->Adopt(std::move(standing), streams);
  Party again(std::move(streams.at(0)));
  again.Send("to the end");
  ASSERT_TRUE(RunUntil(loop_, [&] { return again.received == "to the end"; }));
  EXPECT_FALSE(ended_);
  again.Finish();
  ASSERT_TRUE(RunUntil(loop_, [&] { return again.end.has_value(); }));
  again.Close();
  users_.clear();
  EXPECT_TRUE(RunUntil(loop_, [&] { return ended_ && second->Tunnels().empty(); }));
}

TEST_F(PoolHandoverTest, OneThatWaitsForAnAnswerStays) {
  auto first = Make();
  auto user = Connect(*first);
  ASSERT_NE(user, nullptr);
  auto pending = first->Connect(kKey, {"10.0.0.2:80", {}}, [](auto) {});
  EXPECT_FALSE(first->Find(first->Tunnels().at(0))->Freezable().has_value());
  user->Send("goes on");
  EXPECT_TRUE(RunUntil(loop_, [&] { return user->received == "goes on"; }));
}

}  // namespace
}  // namespace qanat::hbone
