// SPDX-License-Identifier: Apache-2.0
// The relay between two transports that a test holds the far ends of: in-memory pipes, and real
// sockets where the kernel's part (splice, RST) matters.
#include "ztunnel/proxy/relay.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <optional>
#include <random>

#include "common/net/socket.h"

namespace qanat::ztunnel {
namespace {

using net::IoResult;

std::string Random(size_t size) {
  std::mt19937 random(7);
  std::string out(size, '\0');
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

class RelayTest : public ::testing::Test, public Relay::Owner {
 protected:
  void OnRelayEnd(const Relay::Result& r) override { result = r; }
  void Make(net::TransportPtr downstream, net::TransportPtr upstream) {
    relay = std::make_unique<Relay>(shared, std::move(downstream), std::move(upstream),
                                    Relay::Counters{up, down}, *this);
    relay->Start(std::move(early));
  }
  // client and server are the far ends.
  void OverPipes(size_t capacity = 65536) {
    auto [a, b] = net::MakePipe(loop, capacity);
    auto [c, d] = net::MakePipe(loop, capacity);
    client = std::move(a);
    server = std::move(d);
    Make(std::move(b), std::move(c));
  }
  // `buffer`: what the kernel keeps of each socket, 0 = as much as it likes.
  void OverSockets(int buffer = 0) {
    auto [a, b] = SocketPair();
    auto [c, d] = SocketPair();
    for (const Fd* fd : {&a, &b, &c, &d}) {
      if (buffer == 0) continue;
      setsockopt(fd->get(), SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
      setsockopt(fd->get(), SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    }
    client = net::MakeSocketTransport(loop, std::move(a));
    server = net::MakeSocketTransport(loop, std::move(d));
    Make(net::MakeSocketTransport(loop, std::move(b)),
         net::MakeSocketTransport(loop, std::move(c)));
  }
  std::pair<Fd, Fd> SocketPair() {
    net::ListenOptions listen;
    listen.address = *net::SocketAddress::Parse("127.0.0.1:0");
    Fd listener = std::move(net::Listen(listen).value());
    net::ConnectOptions connect;
    connect.to = *net::SocketAddress::OfLocal(listener.get());
    Fd a = std::move(net::StartConnect(connect).value());
    Fd b;
    for (int i = 0; i < 1000 && !b; ++i) {
      b.Reset(accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    }
    return {std::move(a), std::move(b)};
  }

  void Spin(int rounds = 5) {
    for (int i = 0; i < rounds; ++i) loop.RunOnce(std::chrono::milliseconds(1));
  }
  size_t Send(net::Transport& to, std::string_view data) {
    const iovec io{const_cast<char*>(data.data()), data.size()};
    const IoResult written = to.Write({&io, 1});
    return written.ok() ? written.bytes : 0;
  }
  // At most so much; kWouldBlock unless it has ended.
  IoResult::Kind Sip(net::Transport& from, std::string& into, size_t size) {
    std::vector<uint8_t> buffer(size + 1);
    const IoResult read = from.Read(buffer);
    if (!read.ok()) return read.kind;
    into.append(reinterpret_cast<char*>(buffer.data()), read.bytes);
    return IoResult::Kind::kWouldBlock;
  }
  // Reads until nothing comes; returns how it ended.
  IoResult::Kind Take(net::Transport& from, std::string& into) {
    std::vector<uint8_t> buffer(65536);
    while (true) {
      const IoResult read = from.Read(buffer);
      if (!read.ok()) return read.kind;
      into.append(reinterpret_cast<char*>(buffer.data()), read.bytes);
    }
  }
  void Exchange(const std::string& data) {
    std::string received;
    size_t sent = 0;
    for (int i = 0; i < 200000 && received.size() < data.size(); ++i) {
      if (sent < data.size()) sent += Send(*client, std::string_view(data).substr(sent));
      loop.RunOnce(std::chrono::milliseconds(0));
      Take(*server, received);
    }
    EXPECT_EQ(received.size(), data.size());
    EXPECT_TRUE(received == data);
  }

  event::EventLoop loop;
  RelayShared shared{16384};
  RelayEarly early;
  std::shared_ptr<metrics::Counter> up = std::make_shared<metrics::Counter>();
  std::shared_ptr<metrics::Counter> down = std::make_shared<metrics::Counter>();
  net::TransportPtr client, server;
  std::unique_ptr<Relay> relay;
  std::optional<Relay::Result> result;
};

TEST_F(RelayTest, GoesOnBehindWhatTheUpstreamHasAlready) {
  early = {5, {}, true};
  OverSockets();
  std::string received;
  Send(*client, " world");
  Spin();
  Take(*server, received);
  EXPECT_EQ(received, " world") << "not asked for at the start, but told of";
  EXPECT_EQ(relay->bytes_up(), 11u);
}

TEST_F(RelayTest, BeginsWithWhatNobodyHasYet) {
  const std::string first = Random(3000);
  early = {0, {first.begin(), first.end()}, false};
  OverPipes(1000);  // it does not fit at once
  const std::string second = Random(5000);
  std::string received;
  size_t sent = 0;
  for (int i = 0; i < 1000 && received.size() < first.size() + second.size(); ++i) {
    if (sent < second.size()) sent += Send(*client, std::string_view(second).substr(sent));
    Spin(1);
    Take(*server, received);
  }
  EXPECT_EQ(received, first + second);
  EXPECT_EQ(relay->bytes_up(), 8000u);
  EXPECT_EQ(up->value(), 8000u);
  EXPECT_EQ(relay->held(), 0u);
}

TEST_F(RelayTest, BothDirectionsAndCounts) {
  OverPipes();
  Send(*client, "hello");
  Send(*server, "world!");  // the server may speak first
  Spin();
  std::string at_server, at_client;
  Take(*server, at_server);
  Take(*client, at_client);
  EXPECT_EQ(at_server, "hello");
  EXPECT_EQ(at_client, "world!");
  EXPECT_EQ(relay->bytes_up(), 5u);
  EXPECT_EQ(relay->bytes_down(), 6u);
  EXPECT_EQ(up->value(), 5u);
  EXPECT_EQ(down->value(), 6u);
}

// Requests of two segments from a client without TCP_NODELAY: how many of 20 waited for an ACK.
TEST_F(RelayTest, RequestsInTwoSegmentsWaitOnce) {
  OverSockets();
  const int off = 0;
  ASSERT_EQ(setsockopt(client->splice_fd(), IPPROTO_TCP, TCP_NODELAY, &off, sizeof off), 0);
  int waited = 0;
  for (int i = 0; i < 20; ++i) {
    const event::TimePoint start = event::Clock::now();
    ASSERT_EQ(Send(*client, "head"), 4u);
    ASSERT_EQ(Send(*client, "body"), 4u);
    std::string request, answer;
    while (request.size() < 8 && event::Clock::now() - start < std::chrono::seconds(60)) {
      Spin(1);
      Take(*server, request);
    }
    ASSERT_EQ(request, "headbody");
    Send(*server, "ok");
    while (answer.size() < 2 && event::Clock::now() - start < std::chrono::seconds(60)) {
      Spin(1);
      Take(*client, answer);
    }
    ASSERT_EQ(answer, "ok");
    waited += event::Clock::now() - start >= std::chrono::milliseconds(35);
  }
  EXPECT_LE(waited, 8);  // without early ACKs 19; some room for a busy machine
}

TEST_F(RelayTest, HalfCloseFromTheClient) {
  OverPipes();
  Send(*client, "request");
  client->ShutdownWrite();
  Spin();
  std::string text;
  EXPECT_EQ(Take(*server, text), IoResult::Kind::kEof);
  EXPECT_EQ(text, "request");
  EXPECT_FALSE(result.has_value());
  Send(*server, "answer");
  Spin();
  text.clear();
  EXPECT_EQ(Take(*client, text), IoResult::Kind::kWouldBlock);
  EXPECT_EQ(text, "answer");
  server->ShutdownWrite();
  Spin();
  EXPECT_EQ(Take(*client, text), IoResult::Kind::kEof);
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->reason, model::Reason::kNone);
}

TEST_F(RelayTest, HalfCloseFromTheServer) {
  OverPipes();
  server->ShutdownWrite();
  Spin();
  std::string text;
  EXPECT_EQ(Take(*client, text), IoResult::Kind::kEof);
  Send(*client, "still going");
  Spin();
  Take(*server, text);
  EXPECT_EQ(text, "still going");
  EXPECT_FALSE(result.has_value());
  client->ShutdownWrite();
  Spin();
  EXPECT_TRUE(result.has_value());
}

TEST_F(RelayTest, AnAbortStaysAnAbort) {
  for (const bool from_client : {true, false}) {
    for (const bool sockets : {true, false}) {
      result.reset();
      sockets ? OverSockets() : OverPipes();
      Spin();
      (from_client ? client : server)->Abort();
      Spin(20);
      ASSERT_TRUE(result.has_value());
      EXPECT_EQ(result->reason, model::Reason::kReset);
      std::string text;
      EXPECT_EQ(Take(from_client ? *server : *client, text), IoResult::Kind::kReset);
      relay.reset();
    }
  }
}

TEST_F(RelayTest, BackpressureKeepsAtMostOneReadAndLosesNothing) {
  OverPipes(4096);
  const std::string data = Random(1 << 20);
  size_t sent = 0;
  for (int i = 0; i < 50; ++i) {  // nobody reads: it must stop
    sent += Send(*client, std::string_view(data).substr(sent));
    Spin(1);
  }
  EXPECT_LT(sent, 4 * 4096u + shared.buffer.size());
  std::string received;
  for (int i = 0; i < 100000 && received.size() < data.size(); ++i) {
    Take(*server, received);
    sent += Send(*client, std::string_view(data).substr(sent));
    Spin(1);
  }
  EXPECT_TRUE(received == data);
}

// Counted, not timed: who has much to send does not keep the loop from the others.
TEST_F(RelayTest, OneTurnMovesABoundedAmount) {
  OverPipes(4 << 20);
  const std::string data = Random(1 << 20);
  ASSERT_EQ(Send(*client, data), data.size());
  uint64_t last = 0;
  int turns = 0;
  for (; relay->bytes_up() < data.size() && turns < 100; ++turns) {
    loop.RunOnce(std::chrono::milliseconds(0));
    EXPECT_LE(relay->bytes_up() - last, 128u << 10);
    last = relay->bytes_up();
  }
  EXPECT_GE(turns, 8);
  std::string received;
  Take(*server, received);
  EXPECT_TRUE(received == data);
}

TEST_F(RelayTest, EofWaitsForWhatIsPending) {
  OverPipes(1024);
  size_t sent = 0;
  const std::string data = Random(3000);
  for (int i = 0; i < 10 && sent < data.size(); ++i) {
    sent += Send(*client, std::string_view(data).substr(sent));
    Spin(1);
  }
  client->ShutdownWrite();
  Spin();
  std::string received;
  IoResult::Kind kind = IoResult::Kind::kWouldBlock;
  for (int i = 0; i < 50 && kind == IoResult::Kind::kWouldBlock; ++i) {
    kind = Take(*server, received);
    Spin(1);
  }
  EXPECT_EQ(kind, IoResult::Kind::kEof);
  EXPECT_EQ(received, data.substr(0, sent));
}

TEST_F(RelayTest, CopyOverSockets) {
  OverSockets();
  shared.splice_after = UINT64_MAX;
  Exchange(Random(8 << 20));
  EXPECT_EQ(shared.pipes.idle(), 0u);
}

TEST_F(RelayTest, SpliceOverSockets) {
  OverSockets();
  shared.splice_after = 100000;  // changes over in the middle
  const std::string data = Random(8 << 20);
  Exchange(data);
  EXPECT_GT(shared.pipes.idle(), 0u);  // it was used and given back
  EXPECT_EQ(relay->bytes_up(), data.size());
  client->ShutdownWrite();
  std::string rest;
  IoResult::Kind end = IoResult::Kind::kWouldBlock;
  for (int i = 0; i < 5000 && end == IoResult::Kind::kWouldBlock; ++i) {
    Spin(1);
    end = Take(*server, rest);
  }
  EXPECT_EQ(end, IoResult::Kind::kEof);
  EXPECT_EQ(rest, "");
  server->ShutdownWrite();
  for (int i = 0; i < 5000 && !result; ++i) Spin(1);
  EXPECT_TRUE(result.has_value());
}

TEST_F(RelayTest, SpliceWithASlowReceiverThenReset) {
  OverSockets();
  shared.splice_after = 0;
  const std::string data = Random(64 << 20);
  size_t sent = 0;
  for (int i = 0; i < 400; ++i) {
    sent += Send(*client, std::string_view(data).substr(sent));
    Spin(1);
  }
  EXPECT_LT(sent, data.size());  // blocked somewhere
  std::string received;
  for (int i = 0; i < 20; ++i) {
    Take(*server, received);
    Spin(1);
  }
  EXPECT_TRUE(data.compare(0, received.size(), received) == 0);
  server->Abort();
  for (int i = 0; i < 50 && !result; ++i) {
    Send(*client, "x");
    Spin(2);
  }
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->reason, model::Reason::kReset);
}

// Frozen and resumed all the time, at any state of either direction: not a byte is lost or doubled,
// and ends stay ends.
TEST_F(RelayTest, FrozenAndResumedLosesNothing) {
  for (const uint64_t splice_after : {uint64_t{1} << 40, uint64_t{0}, uint64_t{100000}}) {
    shared.splice_after = splice_after;
    result.reset();
    OverSockets(65536);
    std::mt19937 random(static_cast<unsigned>(splice_after) + 3);
    const std::string up_data = Random(3 << 20);
    const std::string down_data = Random(1 << 20);
    std::string up_got, down_got;
    size_t up_sent = 0, down_sent = 0;
    IoResult::Kind up_end = IoResult::Kind::kWouldBlock, down_end = up_end;
    int frozen = 0, with_bytes = 0;
    // Full windows of small sockets wait for the kernel's timers: it takes time, not rounds.
    const auto end = event::Clock::now() + std::chrono::seconds(60);
    while (event::Clock::now() < end && !result) {
      if (up_sent < up_data.size()) {
        up_sent += Send(*client, std::string_view(up_data).substr(up_sent, random() % 300000));
        if (up_sent == up_data.size()) client->ShutdownWrite();
      }
      if (down_sent < down_data.size()) {
        down_sent += Send(*server, std::string_view(down_data).substr(down_sent, random() % 50000));
        if (down_sent == down_data.size()) server->ShutdownWrite();
      }
      loop.RunOnce({});
      if (up_end == IoResult::Kind::kWouldBlock) up_end = Sip(*server, up_got, random() % 20000);
      if (down_end == IoResult::Kind::kWouldBlock) {
        down_end = Sip(*client, down_got, random() % 10000);
      }
      if (random() % 5 != 0 || result) continue;
      ASSERT_TRUE(relay->CanFreeze());
      RelayState state = relay->Freeze();
      EXPECT_FALSE(relay->CanFreeze());
      ++frozen;
      with_bytes += state.up.pending.empty() && state.down.pending.empty() ? 0 : 1;
      for (int i = 0; i < 2; ++i) loop.RunOnce({});  // nothing moves, nothing is left in the loop
      relay = std::make_unique<Relay>(shared,
                                      net::MakeSocketTransport(loop, std::move(state.downstream)),
                                      net::MakeSocketTransport(loop, std::move(state.upstream)),
                                      Relay::Counters{up, down}, *this);
      relay->Resume(std::move(state.up), std::move(state.down));
    }
    ASSERT_TRUE(result.has_value());
    EXPECT_EQ(result->reason, model::Reason::kNone) << result->error;
    EXPECT_EQ(relay->bytes_up(), up_data.size());
    EXPECT_EQ(relay->bytes_down(), down_data.size());
    Take(*server, up_got);
    Take(*client, down_got);
    EXPECT_TRUE(up_got == up_data) << up_got.size();
    EXPECT_TRUE(down_got == down_data) << down_got.size();
    EXPECT_GT(frozen, 20);
    EXPECT_GT(with_bytes, 3);
  }
}

TEST_F(RelayTest, OnlyBetweenSocketsItCanBeFrozen) {
  OverPipes();
  EXPECT_FALSE(relay->CanFreeze());
}

TEST_F(RelayTest, AbortFromOutside) {
  OverPipes();
  Send(*client, "x");
  relay->Abort();
  Spin();
  std::string text;
  EXPECT_EQ(Take(*client, text), IoResult::Kind::kReset);
  EXPECT_EQ(Take(*server, text), IoResult::Kind::kReset);
  EXPECT_FALSE(result.has_value());
}

TEST_F(RelayTest, WhatWaitsIsCounted) {
  shared.SetBuffer(128 << 10);
  MemoryMeter pod;
  OverPipes(1024);
  relay->ChargeTo(&pod);
  EXPECT_EQ(loop.memory().held(), 0u);
  ASSERT_EQ(Send(*client, Random(1024)), 1024u);  // goes through
  Spin();
  EXPECT_EQ(loop.memory().held(), 0u);
  ASSERT_EQ(Send(*client, Random(1000)), 1000u);  // waits: the server has not read
  Spin();
  EXPECT_GE(loop.memory().held(), 1000u);
  EXPECT_EQ(pod.held(), loop.memory().held());
  EXPECT_EQ(relay->held(), pod.held());
  std::string got;
  for (int i = 0; i < 5; ++i) {
    Take(*server, got);
    Spin();
  }
  EXPECT_EQ(got.size(), 2024u);
  EXPECT_EQ(loop.memory().held(), 0u);
  ASSERT_EQ(Send(*client, Random(1024)), 1024u);
  Spin();
  ASSERT_EQ(Send(*client, Random(1024)), 1024u);
  Spin();
  EXPECT_GT(pod.held(), 0u);
  relay.reset();
  EXPECT_EQ(pod.held(), 0u);
  EXPECT_EQ(loop.memory().held(), 0u);
}

TEST_F(RelayTest, LessIsReadAtATimeWhileMemoryIsScarce) {
  shared.SetBuffer(128 << 10);
  auto [a, b] = net::MakePipe(loop, 1 << 20);
  auto [c, d] = net::MakePipe(loop, 1);
  client = std::move(a);
  server = std::move(d);
  Make(std::move(b), std::move(c));
  Send(*client, Random(200'000));
  Spin();
  EXPECT_GT(relay->held(), 100'000u);
  std::string got;
  loop.memory().SetLevel(MemoryLevel::kScarce);
  auto [e, f] = net::MakePipe(loop, 1 << 20);
  auto [g, h] = net::MakePipe(loop, 1);
  auto far_client = std::move(e);
  auto far_server = std::move(h);
  Relay other(shared, std::move(f), std::move(g), {}, *this);
  other.Start();
  Send(*far_client, Random(200'000));
  Spin();
  EXPECT_GT(other.held(), 8'000u);
  EXPECT_LE(other.held(), 16u << 10);
}

}  // namespace
}  // namespace qanat::ztunnel
