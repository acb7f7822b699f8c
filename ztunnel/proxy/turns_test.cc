// SPDX-License-Identifier: Apache-2.0
// One small request beside many connections that always have more to move, all on one worker:
// counted, not timed. Before it is served each of the others has had one turn at most, and a turn
// moves a bounded amount.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <vector>

#include "ztunnel/proxy/relay.h"

namespace qanat::ztunnel {
namespace {

// With the request two whole rounds of the loop: nobody has another turn in the second one.
constexpr int kBulk = 63;
constexpr int kMostEvents = 32;        // event_loop.cc
constexpr uint64_t kTurn = 128 << 10;  // relay.cc
constexpr size_t kBuffer = 16 << 10;
constexpr int kSocketBuffer = 208 << 10;  // twice that holds three turns

class TurnsTest : public ::testing::TestWithParam<bool>, public Relay::Owner {
 protected:
  // Between two pairs of sockets, of which the test has the far ends.
  struct Way {
    Fd client, server;
    std::unique_ptr<Relay> relay;
    uint64_t queued = 0;  // by the client, in all
    uint64_t before = 0;
  };

  void OnRelayEnd(const Relay::Result& result) override { ADD_FAILURE() << result.error; }
  static std::pair<Fd, Fd> SocketPair() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    for (const int fd : fds) {
      setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSocketBuffer, sizeof kSocketBuffer);
    }
    return {Fd(fds[0]), Fd(fds[1])};
  }
  std::unique_ptr<Way> Make() {
    auto way = std::make_unique<Way>();
    auto [client, downstream] = SocketPair();
    auto [upstream, server] = SocketPair();
    way->client = std::move(client);
    way->server = std::move(server);
    way->relay = std::make_unique<Relay>(
        shared, net::MakeSocketTransport(loop, std::move(downstream)),
        net::MakeSocketTransport(loop, std::move(upstream)), Relay::Counters{}, *this);
    way->relay->Start();
    return way;
  }
  // As much as the kernel takes.
  static void Fill(Way& way) {
    static const std::vector<char> bytes(64 << 10);
    ssize_t n;
    while ((n = send(way.client.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL)) > 0) {
      way.queued += static_cast<uint64_t>(n);
    }
  }
  static void Drain(Way& way) {
    std::vector<char> bytes(256 << 10);
    while (recv(way.server.get(), bytes.data(), bytes.size(), 0) > 0) continue;
  }

  event::EventLoop loop;
  RelayShared shared{kBuffer};
};

TEST_P(TurnsTest, ARequestWaitsForOneTurnOfEachOther) {
  const bool splice = GetParam();
  shared.splice_after = splice ? 0 : UINT64_MAX;
  // What a pipe holds may be more than the next socket takes: that one is asked again as well.
  const int most_rounds = ((splice ? 2 : 1) * kBulk + 1 + kMostEvents - 1) / kMostEvents;
  std::vector<std::unique_ptr<Way>> all;
  for (int i = 0; i < kBulk; ++i) all.push_back(Make());
  const auto asks = Make();
  const auto refresh = [&] {
    for (auto& way : all) {
      Drain(*way);
      Fill(*way);
    }
  };
  // All are under way, and known to the loop as such.
  for (int i = 0; i < 2 * most_rounds; ++i) {
    refresh();
    loop.RunOnce(std::chrono::milliseconds(0));
  }
  for (uint64_t request = 1; request <= 5; ++request) {
    refresh();
    for (auto& way : all) {
      way->before = way->relay->bytes_up();
      ASSERT_GT(way->before, 0u);
      ASSERT_GE(way->queued - way->before, 2 * kTurn + kBuffer) << "too little to go on with";
    }
    ASSERT_EQ(send(asks->client.get(), "x", 1, MSG_NOSIGNAL), 1);
    int rounds = 0;
    for (; asks->relay->bytes_up() < request && rounds < 100; ++rounds) {
      loop.RunOnce(std::chrono::milliseconds(0));
    }
    EXPECT_LE(rounds, most_rounds);
    uint64_t most = 0;
    for (auto& way : all) most = std::max(most, way->relay->bytes_up() - way->before);
    EXPECT_GT(most, 0u);  // it had company
    // The last read begins below the turn's end; by splice all of this may be one.
    if (!splice) EXPECT_LT(most, kTurn + kBuffer);
    char byte = 0;
    EXPECT_EQ(recv(asks->server.get(), &byte, 1, 0), 1);
    // Its answer has the same way back.
    ASSERT_EQ(send(asks->server.get(), "y", 1, MSG_NOSIGNAL), 1);
    refresh();
    for (rounds = 0; asks->relay->bytes_down() < request && rounds < 100; ++rounds) {
      loop.RunOnce(std::chrono::milliseconds(0));
    }
    EXPECT_LE(rounds, most_rounds);
    EXPECT_EQ(recv(asks->client.get(), &byte, 1, 0), 1);
  }
}
INSTANTIATE_TEST_SUITE_P(Copied, TurnsTest, ::testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Spliced, TurnsTest, ::testing::Values(true));

}  // namespace
}  // namespace qanat::ztunnel
