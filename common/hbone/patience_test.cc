// SPDX-License-Identifier: Apache-2.0
// What waits for company, for how long, and what never does. Counted at the tunnel's transport.
#include "common/hbone/patience.h"

#include <gtest/gtest.h>

#include "common/hbone/client_session.h"
#include "common/hbone/saved_session.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using net::IoResult;
using testing::Party;
using testing::RunUntil;
using testing::Settle;
using namespace std::chrono_literals;

TEST(PatienceTest, IsTriedWhereItPays) {
  Patience patience;
  const auto skipped = [&] {
    unsigned n = 0;
    while (!patience.Try()) ++n;
    return n;
  };
  EXPECT_EQ(skipped(), Patience::kFirst);
  patience.Found();
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(skipped(), 0u);
    i % 2 == 0 ? patience.Alone() : patience.Found();  // every other time is enough
  }
  for (unsigned i = 0; i < 2 * Patience::kCredit && skipped() == 0; ++i) patience.Alone();
  unsigned longest = 0;
  for (int i = 0; i < 20; ++i) {
    patience.Alone();
    const unsigned n = skipped();
    EXPECT_GE(n, longest);
    longest = n;
  }
  EXPECT_EQ(longest, Patience::kMost);
  patience.Found();
  EXPECT_EQ(skipped(), 0u);
}

class Counting final : public net::Transport {
 public:
  explicit Counting(net::TransportPtr inner, int& writes)
      : inner_(std::move(inner)), writes_(writes) {}
  void SetEvents(net::TransportEvents* events) override { inner_->SetEvents(events); }
  void ReadEnable(bool on) override { inner_->ReadEnable(on); }
  void WriteEnable(bool on) override { inner_->WriteEnable(on); }
  IoResult Read(std::span<uint8_t> into) override { return inner_->Read(into); }
  IoResult Write(std::span<const iovec> from) override {
    ++writes_;
    return inner_->Write(from);
  }
  IoResult ShutdownWrite() override { return inner_->ShutdownWrite(); }
  void Abort() override { inner_->Abort(); }
  event::EventLoop& loop() override { return inner_->loop(); }
  net::SocketAddress local_address() const override { return inner_->local_address(); }
  net::SocketAddress peer_address() const override { return inner_->peer_address(); }

 private:
  net::TransportPtr inner_;
  int& writes_;
};

class LingerTest : public ::testing::Test {
 protected:
  // The server's answers and ends are looked at; `patience` is longer than the test takes.
  void Start(std::chrono::microseconds patience) {
    SessionOptions options;
    options.takes_early = true;
    auto [a, b] = net::MakePipe(loop_, 1 << 20);
    client_ = std::make_unique<ClientSession>(std::move(a), options,
                                              ClientSession::Events{nullptr, nullptr});
    options.patience = patience;
    server_ = std::make_unique<ServerSession>(
        std::make_unique<Counting>(std::move(b), writes_), options,
        ServerSession::Events{
            [this](InboundConnect, Responder responder) { held_ = std::move(responder); },
            nullptr});
    RunUntil(loop_, [&] { return client_->settings_seen(); });
    Settle(loop_);
  }
  // Opens a stream, whose answer is not waited for.
  void Ask(std::string first) {
    first_ = std::move(first);
    client_user_.reset();
    pending_ = client_->Connect({"10.0.0.1:80",
                                 {},
                                 [this] {
                                   return std::span(reinterpret_cast<const uint8_t*>(first_.data()),
                                                    first_.size());
                                 }},
                                [this](ClientSession::ConnectResult result) {
                                  client_user_ = std::make_unique<Party>(std::move(result->stream));
                                });
    ASSERT_TRUE(RunUntil(loop_, [&] { return held_.pending(); }));
    Settle(loop_);
  }
  void Accept() { user_ = std::make_unique<Party>(held_.Accept()); }
  bool Answered() {
    Settle(loop_);
    return client_user_ != nullptr;
  }
  // As many streams as it takes until waiting is tried.
  void PastTheFirst() {
    for (unsigned i = 0; i < Patience::kFirst; ++i) {
      Ask("x");
      Accept();
      ASSERT_TRUE(RunUntil(loop_, [&] { return client_user_ != nullptr; }, 5s));
      user_->Finish();
      ASSERT_TRUE(RunUntil(loop_, [&] { return client_user_->end.has_value(); }, 5s));
      user_.reset();
    }
    Settle(loop_);
    writes_ = 0;
  }

  event::EventLoop loop_;
  int writes_ = 0;
  std::unique_ptr<ClientSession> client_;
  std::unique_ptr<ServerSession> server_;
  Responder held_;
  std::string first_;
  std::unique_ptr<PendingConnect> pending_;
  std::unique_ptr<Party> user_, client_user_;
};

TEST_F(LingerTest, ATunnelBeginsWithoutIt) {
  Start(60s);
  PastTheFirst();  // would not end
}

TEST_F(LingerTest, AnAnswerGoesWithTheFirstBytes) {
  Start(60s);
  PastTheFirst();
  Ask("question");
  Accept();
  EXPECT_FALSE(Answered());
  EXPECT_EQ(writes_, 0);
  user_->Send("reply");
  ASSERT_TRUE(Answered());
  EXPECT_EQ(writes_, 1);
  ASSERT_TRUE(RunUntil(loop_, [&] { return client_user_->received == "reply"; }));
}

TEST_F(LingerTest, WhoHasSaidNothingIsAnsweredAtOnce) {
  Start(60s);
  PastTheFirst();
  Ask("");
  Accept();
  EXPECT_TRUE(Answered());
}

TEST_F(LingerTest, WhoHasMoreToSayIsAnsweredAtOnce) {
  Start(60s);
  PastTheFirst();
  Ask(std::string(kMostEarly, 'x'));
  Accept();
  EXPECT_TRUE(Answered());
}

TEST_F(LingerTest, ALargeReplyTakesTheAnswerAlong) {
  Start(60s);
  PastTheFirst();
  Ask("question");
  Accept();
  EXPECT_FALSE(Answered());
  user_->Send(std::string(60000, 'y'));  // past the session's buffer
  ASSERT_TRUE(RunUntil(
      loop_, [&] { return client_user_ != nullptr && client_user_->received.size() == 60000; }));
}

TEST_F(LingerTest, AnEndGoesWithTheNextAnswer) {
  Start(60s);
  PastTheFirst();
  Ask("x");
  Accept();
  user_->Send("reply");
  ASSERT_TRUE(Answered());
  const auto first = std::move(client_user_);
  user_->Finish();
  Settle(loop_);
  EXPECT_FALSE(first->end.has_value());
  writes_ = 0;
  const auto ended = std::move(user_);
  Ask("");
  Accept();
  ASSERT_TRUE(Answered());
  EXPECT_EQ(writes_, 1);
  ASSERT_TRUE(RunUntil(loop_, [&] { return first->end.has_value(); }));
  EXPECT_EQ(first->end, IoResult::Kind::kEof);
}

TEST_F(LingerTest, AByteNeverWaits) {
  Start(60s);
  PastTheFirst();
  Ask("x");
  Accept();
  user_->Send("r");
  ASSERT_TRUE(Answered());
  for (int i = 0; i < 100; ++i) {
    writes_ = 0;
    user_->Send("b");
    Settle(loop_, 4);
    EXPECT_EQ(writes_, 1);
  }
}

TEST_F(LingerTest, WaitsInVainBecomeRare) {
  Start(1ms);
  PastTheFirst();
  int waited = 0;
  constexpr int kStreams = 200;
  for (int i = 0; i < kStreams; ++i) {
    Ask("x");
    Accept();
    loop_.RunOnce(0ms);  // the handlers' round
    loop_.RunOnce(0ms);
    waited += writes_ == 0 ? 1 : 0;
    ASSERT_TRUE(RunUntil(loop_, [&] { return client_user_ != nullptr; }, 5s));
    user_->Send("late");
    user_->Finish();
    ASSERT_TRUE(RunUntil(loop_, [&] { return client_user_->end.has_value(); }, 5s));
    user_.reset();
    Settle(loop_);
    writes_ = 0;
  }
  EXPECT_GE(waited, 1);
  EXPECT_LE(waited, 8);
}

TEST_F(LingerTest, TheEndOfTheTunnelTakesItAlong) {
  Start(60s);
  PastTheFirst();
  Ask("x");
  Accept();
  EXPECT_FALSE(Answered());
  server_->Close("done");
  ASSERT_TRUE(RunUntil(loop_, [&] { return client_user_ != nullptr; }));
  ASSERT_TRUE(RunUntil(loop_, [&] { return client_user_->end.has_value(); }));
}

TEST_F(LingerTest, StandingStillIsNoReasonToForget) {
  Start(60s);
  PastTheFirst();
  Ask("x");
  Accept();
  EXPECT_FALSE(Answered());
  const auto handles = server_->Freezable();
  ASSERT_TRUE(handles.has_value());
  net::TransportPtr transport;
  SavedSession saved = server_->Export(transport);
  EXPECT_FALSE(saved.unsent.empty());
  std::vector<net::TransportPtr> streams;
  auto next = std::make_unique<ServerSession>(std::move(transport), SessionOptions(),
                                              ServerSession::Events{nullptr, nullptr},
                                              std::move(saved), streams);
  EXPECT_TRUE(Answered());
  user_.reset();
}

}  // namespace
}  // namespace qanat::hbone
