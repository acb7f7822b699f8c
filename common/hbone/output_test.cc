// SPDX-License-Identifier: Apache-2.0
// Streams that wait for room in the session's buffer are told when there is some, whatever made
// it. The transport here takes what the test allows and never reports room by itself.
#include <gtest/gtest.h>

#include "common/hbone/server_session.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using net::IoResult;
using testing::Party;
using testing::RawPeer;
using testing::RunUntil;
using testing::Settle;

constexpr size_t kBuffer = 64 << 10;
constexpr size_t kUnlimited = size_t{1} << 40;

class Gate final : public net::Transport {
 public:
  explicit Gate(net::TransportPtr inner) : inner_(std::move(inner)) {}
  void SetEvents(net::TransportEvents* events) override {
    events_ = events;
    inner_->SetEvents(events);
  }
  void ReadEnable(bool on) override { inner_->ReadEnable(on); }
  void WriteEnable(bool on) override { wants_write = on; }
  IoResult Read(std::span<uint8_t> into) override { return inner_->Read(into); }
  IoResult Write(std::span<const iovec> from) override {
    if (room == 0) return {IoResult::Kind::kWouldBlock, 0};
    iovec part = from.front();
    part.iov_len = std::min(part.iov_len, room);
    IoResult wrote = inner_->Write({&part, 1});
    room -= wrote.bytes;
    return wrote;
  }
  IoResult ShutdownWrite() override { return inner_->ShutdownWrite(); }
  void Abort() override { inner_->Abort(); }
  event::EventLoop& loop() override { return inner_->loop(); }
  net::SocketAddress local_address() const override { return inner_->local_address(); }
  net::SocketAddress peer_address() const override { return inner_->peer_address(); }
  // What a socket does when its buffer has room again.
  void ReportRoom() {
    if (wants_write) events_->OnWritable();
  }

  size_t room = kUnlimited;
  bool wants_write = false;

 private:
  net::TransportPtr inner_;
  net::TransportEvents* events_ = nullptr;
};

class OutputTest : public ::testing::Test {
 protected:
  // A stream whose user has more to send than the session's buffer takes; nothing has gone out.
  void SetUp() override {
    auto [a, b] = net::MakePipe(loop_, 4 << 20);
    auto gate = std::make_unique<Gate>(std::move(b));
    gate_ = gate.get();
    peer_ = std::make_unique<RawPeer>(std::move(a), false);
    SessionOptions options;
    options.send_buffer = kBuffer;
    ServerSession::Events events;
    events.on_connect = [this](const InboundConnect&, Responder responder) {
      user_ = std::make_unique<Party>(responder.Accept());
    };
    server_ = std::make_unique<ServerSession>(std::move(gate), options, std::move(events));
    peer_->Hello(true, {{kSettingInitialWindow, 16 << 20}});
    peer_->SendFrame(kWindowUpdate, 0, 0, std::string("\x01\x00\x00\x00", 4));
    peer_->SendConnect(1);
    ASSERT_TRUE(RunUntil(loop_, [&] { return peer_->Find(kHeaders, 1) != nullptr; }));
    Settle(loop_);
    gate_->room = 0;
    user_->piece = 4096;  // small writes: they are gathered in the session's buffer
    user_->Send(std::string(kTotal, 'x'));
    ASSERT_EQ(user_->blocked, 1);
  }
  size_t Arrived() const {
    size_t sum = 0;
    for (const auto& frame : peer_->frames) {
      if (frame.header.type == kData) sum += frame.header.length;
    }
    return sum;
  }
  void ExpectAllArrives() {
    EXPECT_TRUE(RunUntil(
        loop_, [&] { return Arrived() == kTotal; }, std::chrono::seconds(20)))
        << Arrived() << " of " << kTotal << " bytes arrived, the stream's user has "
        << user_->to_send.size() << " left and was told to wait " << user_->blocked << " times";
  }

  static constexpr size_t kTotal = 1 << 20;
  event::EventLoop loop_;
  Gate* gate_ = nullptr;
  std::unique_ptr<RawPeer> peer_;
  std::unique_ptr<ServerSession> server_;
  std::unique_ptr<Party> user_;
};

// The buffer is full when the round ends, and the transport takes all of it then: it was never
// asked to report room, so it does not.
TEST_F(OutputTest, TheFlushAtTheEndOfARoundMakesTheRoom) {
  gate_->room = kUnlimited;
  ExpectAllArrives();
}

// The transport takes a part; before it reports room, an answer of the session's own (to a PING)
// flushes the rest.
TEST_F(OutputTest, AFlushForAControlFrameMakesTheRest) {
  gate_->room = kBuffer / 2;
  Settle(loop_);
  ASSERT_TRUE(gate_->wants_write);
  gate_->room = kUnlimited;
  peer_->SendFrame(kPing, 0, 0, "12345678");
  ExpectAllArrives();
}

TEST_F(OutputTest, TheTransportReportsTheRoom) {
  Settle(loop_);
  ASSERT_TRUE(gate_->wants_write);
  EXPECT_EQ(Arrived(), 0u);
  // Bit by bit, as a slow peer takes it.
  for (int i = 0; i < 2000 && Arrived() < kTotal; ++i) {
    gate_->room = 1500;
    gate_->ReportRoom();
    Settle(loop_, 2);
  }
  EXPECT_EQ(Arrived(), kTotal);
}

}  // namespace
}  // namespace qanat::hbone
