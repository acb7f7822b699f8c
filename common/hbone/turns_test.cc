// SPDX-License-Identifier: Apache-2.0
// A small request in a tunnel that is full of bulk, on a path that takes less than is wanted; and
// what one tunnel may read before others have their turn. Counted, not timed.
#include <gtest/gtest.h>

#include "common/hbone/client_session.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_bulk.h"
#include "common/hbone/test_link.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using testing::Drain;
using testing::LinkEnd;
using testing::Party;
using testing::RunUntil;
using testing::Source;
using namespace std::chrono_literals;

constexpr size_t kKiB = 1 << 10;
constexpr size_t kMiB = 1 << 20;
constexpr uint64_t kEndless = uint64_t{1} << 50;
constexpr size_t kBulk = 8;

class TurnsTest : public ::testing::Test {
 protected:
  // What the path takes is what the kernel would keep of a socket.
  void Start(size_t capacity) {
    auto [a, b] = LinkEnd::Make(loop_, {.capacity = capacity});
    client_ = std::make_unique<ClientSession>(
        std::move(a), options_, ClientSession::Events{nullptr, [](const CloseReason&) {}});
    server_ = std::make_unique<ServerSession>(
        std::move(b), options_,
        ServerSession::Events{[this](const InboundConnect&, Responder responder) {
                                drains_.push_back(std::make_unique<Drain>(responder.Accept()));
                              },
                              [](const CloseReason&) {}});
  }
  net::TransportPtr Connect() {
    std::optional<ClientSession::ConnectResult> result;
    auto pending = client_->Connect({"10.0.0.1:80", {}},
                                    [&](ClientSession::ConnectResult r) { result = std::move(r); });
    EXPECT_TRUE(RunUntil(loop_, [&] { return result.has_value(); }));
    return std::move((*result)->stream);
  }
  void ConnectBulk() {
    for (size_t i = 0; i < kBulk; ++i) {
      sources_.push_back(std::make_unique<Source>(Connect(), kEndless));
    }
  }
  uint64_t BulkReceived() const {
    uint64_t sum = 0;
    for (size_t i = 0; i < kBulk; ++i) sum += drains_[i]->received;
    return sum;
  }

  event::EventLoop loop_;
  SessionOptions options_;
  std::unique_ptr<ClientSession> client_;
  std::unique_ptr<ServerSession> server_;
  std::vector<std::unique_ptr<Source>> sources_;
  std::vector<std::unique_ptr<Drain>> drains_;  // in the order in which they were asked for
};

// Ahead of it is what the path and the session hold already, and of each other stream what makes
// room in the session once: whoever had room last is the last to be asked again.
TEST_F(TurnsTest, ARequestWaitsForOneTurnOfEachOtherStream) {
  constexpr size_t kPath = 64 * kKiB;
  Start(kPath);
  ConnectBulk();
  Party request(Connect());
  ASSERT_TRUE(RunUntil(loop_, [&] { return BulkReceived() > 32 * kMiB; }));
  const uint64_t most = kPath + options_.send_buffer + kBulk * (kPath + 16 * kKiB);
  int waited = 0;
  for (uint64_t i = 1; i <= 50; ++i) {
    const uint64_t before = BulkReceived();
    const int blocked = request.blocked;
    request.Send(std::string(100, 'x'));
    ASSERT_TRUE(RunUntil(loop_, [&] { return drains_.back()->received == 100 * i; }));
    EXPECT_LE(BulkReceived() - before, most) << "request " << i;
    waited += request.blocked > blocked ? 1 : 0;
  }
  EXPECT_GT(waited, 0) << "the session was never full: this has shown nothing";
  // Neither is there one among the others that has all of it.
  uint64_t least = UINT64_MAX, largest = 0;
  for (size_t i = 0; i < kBulk; ++i) {
    least = std::min(least, drains_[i]->received);
    largest = std::max(largest, drains_[i]->received);
  }
  EXPECT_LT(largest, 2 * least);
}

// What waits at one tunnel is more than it reads before everybody else of the worker has a turn.
TEST_F(TurnsTest, ATunnelReadsABoundedAmountAtATime) {
  constexpr size_t kReads = 4 * 64 * kKiB;  // core.cc
  options_.initial_stream_window = options_.stream_window;
  Start(16 * kMiB);
  ConnectBulk();
  ASSERT_TRUE(RunUntil(loop_, [&] { return BulkReceived() > 8 * kMiB; }));
  uint64_t most = 0;
  for (int i = 0; i < 100; ++i) {
    const uint64_t before = BulkReceived();
    loop_.RunOnce(0ms);
    most = std::max(most, BulkReceived() - before);
  }
  EXPECT_GT(most, kReads / 2);
  EXPECT_LE(most, kReads);
}

}  // namespace
}  // namespace qanat::hbone
