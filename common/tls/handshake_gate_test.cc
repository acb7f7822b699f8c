// SPDX-License-Identifier: Apache-2.0
#include "common/tls/handshake_gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

#include "common/tls/test_certs.h"

namespace qanat::tls {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TestCa;
using namespace std::chrono_literals;

constexpr char kAlice[] = "spiffe://cluster.local/ns/shop/sa/alice";
constexpr char kBob[] = "spiffe://cluster.local/ns/shop/sa/bob";

class GateTest : public ::testing::Test {
 protected:
  struct Item final : HandshakeGate::Waiter {
    Item(std::vector<std::string>& l, std::string n) : log(l), name(std::move(n)) {}
    void OnTurn() override { log.push_back(name); }
    void OnShed() override { log.push_back("shed " + name); }
    std::vector<std::string>& log;
    std::string name;
  };
  event::EventLoop loop_;
  std::vector<std::string> log_;
};

TEST_F(GateTest, SomeNowTheOthersInLaterRounds) {
  HandshakeGate gate(loop_, {2, 100});
  std::vector<std::unique_ptr<Item>> items;
  for (int i = 0; i < 7; ++i) items.push_back(std::make_unique<Item>(log_, std::to_string(i)));
  EXPECT_TRUE(gate.Enter(*items[0], false));
  EXPECT_TRUE(gate.Enter(*items[1], false));
  for (int i = 2; i < 7; ++i) EXPECT_FALSE(gate.Enter(*items[static_cast<size_t>(i)], i == 5));
  EXPECT_FALSE(gate.Enter(*items[3], false)) << "it waits already";
  gate.Leave(*items[4]);
  gate.Leave(*items[4]);
  EXPECT_EQ(gate.waiting(), 4u);
  loop_.RunOnce(1ms);
  EXPECT_THAT(log_, ElementsAre("5", "2")) << "who has begun goes first";
  loop_.RunOnce(1ms);
  EXPECT_THAT(log_, ElementsAre("5", "2", "3", "6"));
  loop_.RunOnce(1ms);
  EXPECT_TRUE(gate.Enter(*items[0], false));
}

TEST_F(GateTest, TheOldestIsGivenUp) {
  HandshakeGate gate(loop_, {1, 2});
  std::vector<std::unique_ptr<Item>> items;
  for (int i = 0; i < 6; ++i) items.push_back(std::make_unique<Item>(log_, std::to_string(i)));
  EXPECT_TRUE(gate.Enter(*items[0], false));
  for (size_t i = 1; i < 6; ++i) gate.Enter(*items[i], i == 1);  // 1 has begun: it is kept
  EXPECT_THAT(log_, ElementsAre("shed 2", "shed 3"));
  EXPECT_EQ(gate.waiting(), 3u);
}

// Hundreds of clients at once on a loop that carries a live connection: however many there are, the
// live one has its turn after a handful of handshake steps.
TEST_F(GateTest, AStormDoesNotStallLiveTraffic) {
  const TestCa ca = TestCa::Make();
  const TlsContextPtr alice = ca.Context(kAlice), bob = ca.Context(kBob);
  constexpr size_t kStorm = 300, kSteps = 2;
  HandshakeShared shared(loop_, {kSteps, 100});
  size_t ok = 0, shed = 0;
  shared.on_outcome = [&](const HandshakeOutcome& outcome) {
    EXPECT_TRUE(outcome.server);
    ok += outcome.kind == HandshakeOutcome::Kind::kOk ? 1 : 0;
    shed += outcome.kind == HandshakeOutcome::Kind::kShed ? 1 : 0;
  };
  std::vector<std::optional<Result<TlsConnection>>> outcomes(kStorm), clients(kStorm);
  std::vector<std::unique_ptr<TlsHandshake>> handshakes;
  for (size_t i = 0; i < kStorm; ++i) {
    auto pipe = net::MakePipe(loop_);
    HandshakeOptions client;
    client.role = Role::kClient;
    client.peer.uris = {kBob};
    handshakes.push_back(std::make_unique<TlsHandshake>(
        std::move(pipe.first), alice, client,
        [&, i](Result<TlsConnection> r) { clients[i] = std::move(r); }));
    HandshakeOptions server;
    server.role = Role::kServer;
    server.shared = &shared;
    handshakes.push_back(std::make_unique<TlsHandshake>(
        std::move(pipe.second), bob, server,
        [&, i](Result<TlsConnection> r) { outcomes[i] = std::move(r); }));
  }
  const auto finished = [&] {
    size_t n = 0;
    for (const auto& outcome : outcomes) n += outcome ? 1 : 0;
    return n;
  };
  size_t most_in_a_round = 0, rounds = 0;
  const auto end = std::chrono::steady_clock::now() + 60s;
  while (finished() < kStorm && std::chrono::steady_clock::now() < end) {
    const size_t before = ok;
    loop_.RunOnce(10ms);
    most_in_a_round = std::max(most_in_a_round, ok - before);
    ++rounds;
  }
  EXPECT_EQ(ok + shed, kStorm);
  EXPECT_LE(most_in_a_round, kSteps);
  EXPECT_GE(rounds, ok) << "two steps a handshake, two steps a round";
  // All came in one round; two were served, a hundred could wait.
  EXPECT_GE(ok, 100u);
  EXPECT_GE(shed, 150u);
  for (const auto& outcome : outcomes) {
    ASSERT_TRUE(outcome);
    if (*outcome) continue;
    EXPECT_EQ(outcome->error().code, Code::kResourceExhausted);
    EXPECT_THAT(outcome->error().message, HasSubstr("more worker threads"));
  }
}

TEST_F(GateTest, AHandshakeThatGoesWhileItWaits) {
  const TestCa ca = TestCa::Make();
  HandshakeShared shared(loop_, {0, 10});  // nobody ever has a turn
  auto pipe = net::MakePipe(loop_);
  HandshakeOptions client;
  client.role = Role::kClient;
  client.peer.uris = {kBob};
  client.shared = &shared;
  auto handshake = std::make_unique<TlsHandshake>(std::move(pipe.first), ca.Context(kAlice), client,
                                                  [](const Result<TlsConnection>&) { FAIL(); });
  loop_.RunOnce(1ms);
  EXPECT_EQ(shared.gate.waiting(), 1u);
  handshake.reset();
  EXPECT_EQ(shared.gate.waiting(), 0u);
  client.timeout = 20ms;
  auto second = net::MakePipe(loop_);
  std::optional<Code> code;
  TlsHandshake late(std::move(second.first), ca.Context(kAlice), client,
                    [&](const Result<TlsConnection>& r) { code = r.error().code; });
  const auto end = std::chrono::steady_clock::now() + 60s;
  while (!code && std::chrono::steady_clock::now() < end) loop_.RunOnce(2ms);
  EXPECT_EQ(code, Code::kDeadlineExceeded);
  EXPECT_EQ(shared.gate.waiting(), 0u);
}

}  // namespace
}  // namespace qanat::tls
