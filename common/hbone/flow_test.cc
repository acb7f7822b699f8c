// SPDX-License-Identifier: Apache-2.0
// Windows: streams whose users do not read hold up nobody else and not much memory; windows grow to
// what the path needs and no further.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "common/hbone/client_session.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_bulk.h"
#include "common/hbone/test_link.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using net::IoResult;
using testing::Drain;
using ::testing::HasSubstr;
using testing::LinkEnd;
using testing::LinkOptions;
using testing::RunUntil;
using testing::Settle;
using testing::Source;
using namespace std::chrono_literals;

constexpr size_t kMiB = 1 << 20;

class FlowTest : public ::testing::Test {
 protected:
  void Start(const SessionOptions& options, LinkOptions link = {}) {
    sources_.clear();
    drains_.clear();
    client_.reset();
    server_.reset();
    auto [a, b] = LinkEnd::Make(loop_, std::move(link));
    client_ = std::make_unique<ClientSession>(
        std::move(a), options,
        ClientSession::Events{nullptr, [this](const CloseReason& r) { closed_ = r.message; }});
    server_ = std::make_unique<ServerSession>(
        std::move(b), options,
        ServerSession::Events{[this](const InboundConnect&, Responder responder) {
                                drains_.push_back(
                                    std::make_unique<Drain>(responder.Accept(), reading_));
                              },
                              [](const CloseReason&) {}});
  }
  // A stream whose client sends that much.
  Source& Open(uint64_t size, bool reading) {
    reading_ = reading;
    std::optional<ClientSession::ConnectResult> result;
    auto pending = client_->Connect({"10.0.0.1:80", {}},
                                    [&](ClientSession::ConnectResult r) { result = std::move(r); });
    EXPECT_TRUE(RunUntil(loop_, [&] { return result.has_value(); }));
    sources_.push_back(std::make_unique<Source>(std::move((*result)->stream), size));
    return *sources_.back();
  }
  // What waits unread when for many times the link's delay nothing more came.
  size_t Unread() {
    size_t last = 0, quiet = 0;
    RunUntil(loop_, [&] {
      const size_t before = std::exchange(last, server_->stats().unread);
      quiet = last == before ? quiet + 1 : 0;
      return quiet >= 50;
    });
    return last;
  }
  // Runs until the last stream's bytes are there; the most that was unread meanwhile.
  void Finish() {
    most_unread_ = most_growth_ = 0;
    took_ = {};
    auto last = std::chrono::steady_clock::now();
    auto done = [&] {
      const auto now = std::chrono::steady_clock::now();
      took_ += std::min<std::chrono::nanoseconds>(now - std::exchange(last, now), 10ms);
      most_unread_ = std::max(most_unread_, server_->stats().unread);
      most_growth_ = std::max(most_growth_, server_->stats().window_growth);
      return drains_.back()->end.has_value();
    };
    ASSERT_TRUE(RunUntil(loop_, done, 60s)) << drains_.back()->received << " bytes came";
    EXPECT_TRUE(drains_.back()->in_order);
    EXPECT_EQ(*drains_.back()->end, IoResult::Kind::kEof);
  }

  event::EventLoop loop_;
  std::unique_ptr<ClientSession> client_;
  std::unique_ptr<ServerSession> server_;
  std::vector<std::unique_ptr<Source>> sources_;
  std::vector<std::unique_ptr<Drain>> drains_;
  std::optional<std::string> closed_;
  bool reading_ = true;
  size_t most_unread_ = 0, most_growth_ = 0;
  // By Finish(), without what this process stood still: no round waits longer than two
  // milliseconds.
  std::chrono::nanoseconds took_{};
};

class StalledStreams : public FlowTest, public ::testing::WithParamInterface<size_t> {};

// With windows of 4 MiB in a connection's window of 16: were its credit given back as users read,
// three such streams would stop all others.
TEST_P(StalledStreams, HoldUpNobodyElse) {
  SessionOptions options;
  options.initial_stream_window = options.stream_window;
  Start(options, {.capacity = kMiB});
  for (size_t i = 0; i < GetParam(); ++i) Open(64 * kMiB, false);
  const size_t held = GetParam() * options.stream_window;
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_->stats().unread == held; }, 60s));
  Open(100 * kMiB, true);
  Finish();
  EXPECT_EQ(drains_.back()->received, 100 * kMiB);
  EXPECT_LE(most_unread_, held + options.stream_window);
  Settle(loop_);
  EXPECT_EQ(server_->stats().unread, held);
  // They go on when they are read.
  drains_[0]->transport().ReadEnable(true);
  ASSERT_TRUE(RunUntil(loop_, [&] { return drains_[0]->end.has_value(); }, 60s));
  EXPECT_EQ(drains_[0]->received, 64 * kMiB);
  EXPECT_TRUE(drains_[0]->in_order);
}
INSTANTIATE_TEST_SUITE_P(Three, StalledStreams, ::testing::Values(3));
INSTANTIATE_TEST_SUITE_P(Four, StalledStreams, ::testing::Values(4));

TEST_F(FlowTest, AStalledStreamHoldsItsFirstWindowOnly) {
  Start({}, {.capacity = kMiB});
  for (int i = 0; i < 10; ++i) Open(8 * kMiB, false);
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_->stats().unread == 10 * 256 * 1024; }));
  EXPECT_EQ(Unread(), 10u * 256 * 1024);
  EXPECT_EQ(server_->stats().window_growth, 0u);
}

// Large first windows, as a client has them, are taken back before anybody has to be reset.
TEST_F(FlowTest, LargeWindowsAreTakenBackWhenMuchWaits) {
  SessionOptions options;
  options.initial_stream_window = options.stream_window;
  Start(options, {.delay = 1ms, .capacity = kMiB});
  constexpr int kStalled = 40;
  for (int i = 0; i < kStalled; ++i) Open(6 * kMiB, false);
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_->stats().unread > 16 * kMiB; }, 60s));
  const size_t before = Unread();
  EXPECT_LT(before, 40 * kMiB);
  // Who comes now has a small window, which grows.
  Open(6 * kMiB, false);
  EXPECT_EQ(Unread(), before + 256 * 1024);
  for (auto& drain : drains_) drain->transport().ReadEnable(true);
  for (auto& drain : drains_) {
    ASSERT_TRUE(RunUntil(loop_, [&] { return drain->end.has_value(); }, 60s));
    EXPECT_EQ(drain->received, 6 * kMiB);
    EXPECT_TRUE(drain->in_order);
    EXPECT_EQ(*drain->end, IoResult::Kind::kEof);
  }
  EXPECT_EQ(server_->stats().shed, 0u);
  EXPECT_FALSE(closed_);
}

// What has grown shrinks as it is read, and nothing else does: nobody loses credit he was given.
TEST_F(FlowTest, WindowsStaySmallWhileMemoryIsScarce) {
  Start({}, {.delay = 5ms, .capacity = 64 * kMiB});
  Open(16 * kMiB, true);
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_->stats().window_growth > kMiB; }, 60s));
  loop_.memory().SetLevel(MemoryLevel::kScarce);
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_->stats().window_growth == 0; }, 60s));
  Finish();
  EXPECT_EQ(drains_.back()->received, 16 * kMiB);
  EXPECT_EQ(most_growth_, 0u);
  Open(16 * kMiB, true);
  Finish();
  EXPECT_EQ(most_growth_, 0u);
  loop_.memory().SetLevel(MemoryLevel::kPlenty);
  Open(16 * kMiB, true);
  Finish();
  EXPECT_GT(most_growth_, kMiB);
}

TEST_F(FlowTest, WindowsOfOneOwnerStaySmallWhileItsMemoryIsScarce) {
  MemoryMeter pod;
  pod.SetLevel(MemoryLevel::kScarce);
  Start({}, {.delay = 5ms, .capacity = 64 * kMiB});
  Open(16 * kMiB, true);
  drains_.back()->transport().ChargeTo(&pod);
  Finish();
  EXPECT_EQ(most_growth_, 0u);
  Open(16 * kMiB, true);  // nobody's
  Finish();
  EXPECT_GT(most_growth_, kMiB);
  drains_.clear();
}

TEST_F(FlowTest, LargeFirstWindowsAreTakenBackWhileMemoryIsScarce) {
  SessionOptions options;
  options.initial_stream_window = options.stream_window;
  Start(options, {.delay = 1ms, .capacity = kMiB});
  Open(kMiB, false);
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_->stats().unread == kMiB; }, 60s));
  loop_.memory().SetLevel(MemoryLevel::kScarce);
  Open(8 * kMiB, false);
  const size_t before = Unread();
  EXPECT_LT(before, 4 * kMiB);
  Open(8 * kMiB, false);
  EXPECT_EQ(Unread(), before + 256 * 1024);
  for (auto& drain : drains_) drain->transport().ReadEnable(true);
  for (auto& drain : drains_) {
    ASSERT_TRUE(RunUntil(loop_, [&] { return drain->end.has_value(); }, 60s));
    EXPECT_TRUE(drain->in_order);
    EXPECT_EQ(*drain->end, IoResult::Kind::kEof);
  }
}

TEST_F(FlowTest, WhatIsHeldIsCounted) {
  MemoryMeter pod;
  Start({}, {.capacity = kMiB});
  for (int i = 0; i < 4; ++i) Open(8 * kMiB, false);
  drains_[0]->transport().ChargeTo(&pod);
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_->stats().unread == kMiB; }));
  EXPECT_GE(loop_.memory().held(), kMiB);
  EXPECT_LE(loop_.memory().held(), 3 * kMiB);
  EXPECT_GE(pod.held(), 256u << 10);
  EXPECT_LE(pod.held(), 512u << 10);
  EXPECT_EQ(drains_[0]->transport().held(), pod.held());
  drains_[1]->transport().Abort();
  for (auto& drain : drains_) drain->transport().ReadEnable(true);
  ASSERT_TRUE(RunUntil(loop_, [&] { return drains_[0]->end.has_value(); }, 60s));
  EXPECT_LT(pod.held(), 1024u);  // an empty queue keeps next to nothing
  drains_.clear();
  EXPECT_EQ(pod.held(), 0u);
  sources_.clear();
  client_.reset();
  server_.reset();
  Settle(loop_);
  EXPECT_EQ(loop_.memory().held(), 0u);
}

TEST_F(FlowTest, MemoryIsBoundedOverall) {
  SessionOptions options;
  options.max_unread = kMiB;
  Start(options, {.capacity = kMiB});
  for (int i = 0; i < 8; ++i) Open(kMiB, false);
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_->stats().shed >= 4; }));
  Settle(loop_, 100);
  EXPECT_LE(server_->stats().unread, kMiB);
  EXPECT_EQ(server_->stats().shed, 4u);  // 8 windows of 256 KiB, of which 4 are allowed
  // They are told: a reset, not an end.
  size_t reset = 0;
  for (auto& drain : drains_) {
    drain->transport().ReadEnable(true);
    RunUntil(loop_, [&] { return drain->end.has_value(); }, 60s);
    if (drain->end == IoResult::Kind::kReset) {
      ++reset;
      EXPECT_THAT(drain->transport().error(), HasSubstr("unread"));
    } else {
      EXPECT_EQ(drain->received, kMiB);
    }
  }
  EXPECT_EQ(reset, 4u);
  Open(4 * kMiB, true);
  Finish();
  EXPECT_FALSE(closed_);
}

TEST_F(FlowTest, WindowsGrowWithTheDelayOfThePath) {
  auto timed = [&](const SessionOptions& options) {
    Start(options, {.delay = 20ms});
    Open(16 * kMiB, true);
    Finish();
    return took_;
  };
  SessionOptions fixed;
  fixed.stream_window = 256u << 10;
  const auto slow = timed(fixed);
  EXPECT_EQ(most_growth_, 0u);
  EXPECT_GE(slow, 64 * 40ms - 80ms);  // 64 windows, a round trip each
  const auto fast = timed({});
  EXPECT_EQ(most_growth_, (4u << 20) - (256u << 10));
  EXPECT_GE(server_->stats().rtt, 39ms);
  EXPECT_LT(fast * 2, slow) << std::chrono::duration<double>(fast).count() << " s and "
                            << std::chrono::duration<double>(slow).count() << " s";
  // The stream is over: what it had grown is there for others.
  Settle(loop_);
  drains_.clear();
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_->stats().window_growth == 0; }));
}

TEST_F(FlowTest, GrowthHasALimitForAllStreamsTogether) {
  SessionOptions options;
  options.connection_window = kMiB;
  Start(options, {.delay = 5ms});
  for (int i = 0; i < 4; ++i) Open(6 * kMiB, true);
  size_t most = 0;
  ASSERT_TRUE(RunUntil(
      loop_,
      [&] {
        most = std::max(most, server_->stats().window_growth);
        return std::all_of(drains_.begin(), drains_.end(), [](auto& d) { return d->end; });
      },
      60s));
  EXPECT_GT(most, 0u);
  EXPECT_LE(most, kMiB);
  for (auto& drain : drains_) EXPECT_EQ(drain->received, 6 * kMiB);
}

// Its window is not what holds the stream back.
TEST_F(FlowTest, ASlowReadersWindowStays) {
  Start({}, {.delay = 2ms});
  Open(2 * kMiB, false);
  Drain& slow = *drains_[0];
  size_t since = 0;
  auto refilled = event::Clock::now();
  while (slow.received < 2 * kMiB && !HasFailure()) {
    const uint64_t before = slow.received;
    slow.Take(16 << 10);
    if (slow.received == before) {
      loop_.RunOnce(1ms);
      continue;
    }
    // Half a window in 16 ms, the round trip is 4, or what it is measured as on a busy machine.
    for (int i = 0; i < 2; ++i) loop_.RunOnce(1ms);
    std::this_thread::sleep_for(2ms);
    since += slow.received - before;
    if (since >= 128 << 10) {
      since = 0;
      refilled = event::Clock::now();
    }
    while (since + (16 << 10) >= 128 << 10 &&
           event::Clock::now() - refilled < 3 * server_->stats().rtt) {
      loop_.RunOnce(1ms);
    }
    ASSERT_EQ(server_->stats().window_growth, 0u) << slow.received;
  }
  EXPECT_TRUE(slow.in_order);
}

}  // namespace
}  // namespace qanat::hbone
