// SPDX-License-Identifier: Apache-2.0
// When tunnels ask whether their peers are still there.
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "common/hbone/server_session.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using testing::RawPeer;
using testing::RunUntil;
using namespace std::chrono_literals;

struct Tunnel {
  Tunnel(event::EventLoop& loop, const SessionOptions& options) {
    auto [a, b] = net::MakePipe(loop, 1 << 20);
    peer = std::make_unique<RawPeer>(std::move(a), false);
    session = std::make_unique<ServerSession>(
        std::move(b), options,
        ServerSession::Events{[](InboundConnect, Responder) {}, [](const CloseReason&) {}});
    peer->Hello(true);
  }
  size_t asked() const {
    return static_cast<size_t>(
        std::count_if(peer->frames.begin(), peer->frames.end(), [](const RawPeer::Frame& frame) {
          return frame.header.type == kPing && !frame.header.has(kFlagAck);
        }));
  }
  std::unique_ptr<RawPeer> peer;
  std::unique_ptr<ServerSession> session;
};

TEST(KeepaliveTest, TunnelsOfOneMomentDoNotAskAllAtOnce) {
  constexpr size_t kTunnels = 64;
  event::EventLoop loop;
  SessionOptions options;
  options.ping_interval = 1s;
  options.ping_timeout = 100s;
  // The times are of the rounds in which the questions came: where the process did not run for
  // long, they say nothing about the tunnels, and the tunnels are made anew.
  std::vector<event::Duration> when;
  event::Duration stood{};
  int measured = 0;
  do {
    std::vector<std::unique_ptr<Tunnel>> tunnels;
    const auto start = event::Clock::now();
    auto last = start;
    for (size_t i = 0; i < kTunnels; ++i) {
      tunnels.push_back(std::make_unique<Tunnel>(loop, options));
    }
    when.assign(kTunnels, {});
    stood = {};
    ASSERT_TRUE(RunUntil(loop, [&] {
      const auto now = event::Clock::now();
      stood = std::max(stood, now - last);
      last = now;
      size_t asked = 0;
      for (size_t i = 0; i < kTunnels; ++i) {
        if (tunnels[i]->asked() == 0) continue;
        ++asked;
        if (when[i].count() == 0) when[i] = now - start;
      }
      return asked == kTunnels;
    }));
  } while (stood > 50ms && ++measured < 30);
  std::sort(when.begin(), when.end());
  EXPECT_GE(when.front(), 490ms);
  // Half a second for all of them; a fifth of that for most would be a burst.
  EXPECT_GE(when[kTunnels * 3 / 4] - when[kTunnels / 4], 100ms);
}

TEST(KeepaliveTest, WhoIsHeardIsNotAsked) {
  event::EventLoop loop;
  SessionOptions options;
  options.ping_interval = 400ms;
  options.ping_timeout = 100s;
  Tunnel talks(loop, options), silent(loop, options);
  // Where this process stood still, nobody was heard for a while: the time begins anew.
  const auto begun = event::Clock::now();
  auto end = begun + 1200ms, next = begun, heard = begun;
  size_t asked_before = 0;
  ASSERT_TRUE(RunUntil(loop, [&] {
    const auto now = event::Clock::now();
    if (now - std::exchange(heard, now) > 100ms) {
      talks.peer->SendFrame(kPing, 0, 0, "8 bytes.");
      for (int i = 0; i < 20; ++i) loop.RunOnce(0ms);
      asked_before = talks.asked();
      heard = event::Clock::now();
      end = heard + 1200ms;
    }
    if (now >= next) {
      talks.peer->SendFrame(kPing, 0, 0, "8 bytes.");
      next = now + 20ms;
    }
    return now >= end;
  }));
  EXPECT_EQ(talks.asked(), asked_before);
  EXPECT_GE(silent.asked(), 1u);
}

}  // namespace
}  // namespace qanat::hbone
