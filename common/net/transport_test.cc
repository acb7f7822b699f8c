// SPDX-License-Identifier: Apache-2.0
// The same behaviour is asked of every kind of transport: here sockets and the in-memory pipe.
#include "common/net/transport.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <functional>
#include <random>

#include "common/net/socket.h"

namespace qanat::net {
namespace {

using std::chrono::milliseconds;
using Kind = IoResult::Kind;

struct Events final : TransportEvents {
  std::function<void()> readable = [] {};
  std::function<void()> writable = [] {};
  void OnReadable() override { readable(); }
  void OnWritable() override { writable(); }
};

iovec Slice(std::string_view text) { return {const_cast<char*>(text.data()), text.size()}; }

class TransportTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam()) {
      std::tie(a_, b_) = MakePipe(loop_, 4096);
    } else {
      Acceptor acceptor(
          loop_, *Listen({.address = *SocketAddress::Parse("127.0.0.1:0")}),
          [&](Fd fd, SocketAddress) { b_ = MakeSocketTransport(loop_, std::move(fd)); });
      Connector connector(loop_, {.to = acceptor.local_address()}, [&](Result<Fd> fd) {
        ASSERT_TRUE(fd) << fd.error().message;
        a_ = MakeSocketTransport(loop_, std::move(*fd));
      });
      while (!a_ || !b_) loop_.RunOnce(milliseconds(100));
    }
    a_->SetEvents(&on_a_);
    b_->SetEvents(&on_b_);
  }
  std::string Read(Transport& from) {
    std::string got(65536, '\0');
    IoResult r = from.Read({reinterpret_cast<uint8_t*>(got.data()), got.size()});
    last_ = r.kind;
    got.resize(r.bytes);
    return got;
  }
  // Runs the loop until b has something to say.
  void WaitReadable() {
    bool ready = false;
    on_b_.readable = [&] {
      ready = true;
      b_->ReadEnable(false);
    };
    b_->ReadEnable(true);
    for (int i = 0; i < 1000 && !ready; ++i) loop_.RunOnce(milliseconds(20));
    ASSERT_TRUE(ready);
  }

  event::EventLoop loop_;
  Events on_a_, on_b_;
  TransportPtr a_, b_;
  Kind last_ = Kind::kOk;
};

TEST_P(TransportTest, BytesThenEnd) {
  iovec parts[] = {Slice("hello "), Slice("world")};
  EXPECT_EQ(a_->Write(parts).bytes, 11u);
  EXPECT_TRUE(a_->ShutdownWrite().ok());
  WaitReadable();
  EXPECT_EQ(Read(*b_), "hello world");
  WaitReadable();
  Read(*b_);
  EXPECT_EQ(last_, Kind::kEof);
  // The other direction still works: half close.
  iovec back[] = {Slice("answer")};
  EXPECT_EQ(b_->Write(back).bytes, 6u);
}

TEST_P(TransportTest, NothingToReadBlocks) {
  EXPECT_EQ(Read(*b_), "");
  EXPECT_EQ(last_, Kind::kWouldBlock);
}

TEST_P(TransportTest, AbortIsSeenAsReset) {
  a_->Abort();
  WaitReadable();
  Read(*b_);
  EXPECT_EQ(last_, Kind::kReset);
}

TEST_P(TransportTest, CloseWithUnreadInputIsAReset) {
  iovec part[] = {Slice("unread")};
  ASSERT_EQ(a_->Write(part).bytes, 6u);
  WaitReadable();
  b_.reset();
  bool told = false;
  on_a_.readable = [&] {
    told = true;
    a_->ReadEnable(false);
  };
  a_->ReadEnable(true);
  for (int i = 0; i < 1000 && !told; ++i) loop_.RunOnce(milliseconds(20));
  Read(*a_);
  EXPECT_EQ(last_, Kind::kReset);
}

TEST_P(TransportTest, BackpressureAndBulkArriveExact) {
  std::string sent(3 << 20, '\0');
  std::mt19937 random(7);
  for (char& c : sent) c = static_cast<char>(random());
  size_t written = 0;
  int blocked = 0;
  on_a_.writable = [&] {
    iovec part[] = {Slice(std::string_view(sent).substr(written))};
    IoResult r = a_->Write(part);
    if (r.kind == Kind::kWouldBlock) ++blocked;
    written += r.bytes;
    if (written == sent.size()) {
      a_->WriteEnable(false);
      a_->ShutdownWrite();
    }
  };
  a_->WriteEnable(true);
  std::string got;
  bool end = false;
  on_b_.readable = [&] {
    got += Read(*b_);
    if (last_ == Kind::kEof) {
      end = true;
      b_->ReadEnable(false);
    }
  };
  // The reader starts late: the writer must have stopped at a bounded amount by then.
  for (int i = 0; i < 20; ++i) loop_.RunOnce(milliseconds(1));
  if (GetParam()) EXPECT_EQ(written, 4096u);
  b_->ReadEnable(true);
  while (!end) loop_.RunOnce(milliseconds(100));
  EXPECT_EQ(got, sent);
}

TEST_P(TransportTest, HandlerMayDestroyTheTransport) {
  iovec part[] = {Slice("x")};
  a_->Write(part);
  bool called = false;
  on_b_.readable = [&] {
    called = true;
    b_.reset();
  };
  b_->ReadEnable(true);
  b_->WriteEnable(true);
  for (int i = 0; i < 1000 && !called; ++i) loop_.RunOnce(milliseconds(20));
  EXPECT_TRUE(called);
  EXPECT_EQ(b_, nullptr);
}

INSTANTIATE_TEST_SUITE_P(Kinds, TransportTest, testing::Bool(),
                         [](const auto& p) { return p.param ? "Pipe" : "Socket"; });

// A port of ours that refuses: one that was given back may be another process's the next moment.
Fd BoundAndNotListening() {
  Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
  return fd;
}

TEST(ConnectorTest, RefusedAndTimedOut) {
  event::EventLoop loop;
  const Fd holder = BoundAndNotListening();
  const SocketAddress to = *SocketAddress::OfLocal(holder.get());
  bool done = false;
  Connector refused(loop, {.to = to}, [&](Result<Fd> fd) {
    done = true;
    ASSERT_FALSE(fd);
    EXPECT_EQ(fd.error().code, Code::kUnavailable);
  });
  EXPECT_FALSE(done) << "never from inside the constructor";
  while (!done) loop.RunOnce(milliseconds(100));
}

TEST(ConnectorTest, StandsAtOnceOnOneMachine) {
  event::EventLoop loop;
  Fd listener = *Listen({.address = *SocketAddress::Parse("127.0.0.1:0")});
  const SocketAddress to = *SocketAddress::OfLocal(listener.get());
  Result<Fd> started = StartConnect({.to = to});
  ASSERT_TRUE(started);
  EXPECT_TRUE(IsConnected(started->get()));
  // Who waits all the same hears of it.
  bool done = false;
  Connector connector(loop, {.to = to}, std::move(started), [&](Result<Fd> fd) {
    done = true;
    EXPECT_TRUE(fd);
  });
  EXPECT_FALSE(done);
  while (!done) loop.RunOnce(milliseconds(100));
}

TEST(ConnectorTest, AskingWhetherItStandsLeavesTheFailureToWhoWaits) {
  event::EventLoop loop;
  const Fd holder = BoundAndNotListening();
  const SocketAddress to = *SocketAddress::OfLocal(holder.get());
  Result<Fd> started = StartConnect({.to = to});
  ASSERT_TRUE(started);
  EXPECT_FALSE(IsConnected(started->get()));
  bool done = false;
  Connector connector(loop, {.to = to}, std::move(started), [&](Result<Fd> fd) {
    done = true;
    ASSERT_FALSE(fd);
    EXPECT_EQ(fd.error().sys_errno, ECONNREFUSED);
  });
  while (!done) loop.RunOnce(milliseconds(100));
}

// One waits most often, and then nothing is asked for twice; a queue is taken in ever larger steps,
// with a bound, and nobody in it is forgotten.
TEST(AcceptorTest, TakesAsManyAsLastTimeWereThere) {
  event::EventLoop loop;
  Fd listening = *Listen({.address = *SocketAddress::Parse("127.0.0.1:0")});
  const SocketAddress to = *SocketAddress::OfLocal(listening.get());
  std::vector<Fd> clients, accepted;
  Acceptor acceptor(loop, std::move(listening),
                    [&](Fd fd, SocketAddress) { accepted.push_back(std::move(fd)); });
  const auto connect = [&](int count) {
    for (int i = 0; i < count; ++i) clients.push_back(*StartConnect({.to = to}));
  };
  connect(200);
  std::vector<size_t> steps;
  for (int i = 0; i < 50 && accepted.size() < clients.size(); ++i) {
    const size_t before = accepted.size();
    loop.RunOnce(milliseconds(100));
    steps.push_back(accepted.size() - before);
  }
  std::vector<size_t> expected{1, 2, 4};
  expected.insert(expected.end(), 24, 8);
  expected.push_back(1);
  EXPECT_EQ(steps, expected);
  connect(1);
  loop.RunOnce(milliseconds(100));
  EXPECT_EQ(accepted.size(), 201u);
}

// Whoever waits on the same loop has a turn after eight of them at the latest.
TEST(AcceptorTest, ABurstOfOneListenerLeavesTheOthersTheirTurns) {
  event::EventLoop loop;
  const auto listen = [] { return *Listen({.address = *SocketAddress::Parse("127.0.0.1:0")}); };
  Fd busy = listen(), quiet = listen();
  std::vector<Fd> clients, accepted;
  for (int i = 0; i < 100; ++i) {
    clients.push_back(*StartConnect({.to = *SocketAddress::OfLocal(busy.get())}));
  }
  const SocketAddress to_quiet = *SocketAddress::OfLocal(quiet.get());
  int since = 0, most = 0, turns = 0;
  Acceptor burst(loop, std::move(busy), [&](Fd fd, SocketAddress) {
    accepted.push_back(std::move(fd));
    most = std::max(most, ++since);
  });
  Acceptor other(loop, std::move(quiet), [&](Fd fd, SocketAddress) {
    accepted.push_back(std::move(fd));
    since = 0;
    ++turns;
  });
  while (accepted.size() < clients.size()) {
    clients.push_back(*StartConnect({.to = to_quiet}));
    loop.RunOnce(milliseconds(100));
  }
  EXPECT_LE(most, 2 * 8);  // behind this round's, if it comes first, and the next one's
  EXPECT_GE(turns, 100 / 16);
}

TEST(KeepAliveTest, EachSettingReachesTheSocket) {
  const auto read = [](const KeepAlive& keepalive) {
    const Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    SetStreamOptions(fd.get(), keepalive);
    std::vector<int> out;
    for (const auto& [level, option] : {std::pair{SOL_SOCKET, SO_KEEPALIVE},
                                        {IPPROTO_TCP, TCP_KEEPIDLE},
                                        {IPPROTO_TCP, TCP_KEEPINTVL},
                                        {IPPROTO_TCP, TCP_KEEPCNT},
                                        {IPPROTO_TCP, TCP_USER_TIMEOUT}}) {
      int value = -1;
      socklen_t size = sizeof value;
      EXPECT_EQ(getsockopt(fd.get(), level, option, &value, &size), 0);
      out.push_back(value);
    }
    return out;
  };
  using std::chrono::seconds;
  EXPECT_EQ(read({}), (std::vector<int>{1, 180, 180, 9, 0}));
  KeepAlive keepalive{true, seconds(20), seconds(5), 3, true};
  EXPECT_EQ(read(keepalive), (std::vector<int>{1, 20, 5, 3, 35000}));
  keepalive.enabled = false;
  EXPECT_EQ(read(keepalive).front(), 0);
}

// A listener that is closed resets who is in its queue.
TEST(AcceptorTest, WhoWaitsIsTakenBeforeTheEnd) {
  event::EventLoop loop;
  for (const bool paused : {false, true}) {
    Fd listening = *Listen({.address = *SocketAddress::Parse("127.0.0.1:0")});
    const SocketAddress to = *SocketAddress::OfLocal(listening.get());
    std::vector<Fd> clients, accepted;
    std::vector<SocketAddress> peers;
    auto acceptor = std::make_unique<Acceptor>(loop, std::move(listening),
                                               [&](Fd fd, const SocketAddress& peer) {
                                                 accepted.push_back(std::move(fd));
                                                 peers.push_back(peer);
                                               });
    acceptor->SetPaused(paused);  // another process has the same listener, and takes them
    for (int i = 0; i < 50; ++i) clients.push_back(*StartConnect({.to = to}));
    acceptor->TakeWaiting();
    acceptor.reset();
    ASSERT_EQ(accepted.size(), paused ? 0u : 50u);
    for (size_t i = 0; i < accepted.size(); ++i) {
      EXPECT_EQ(*SocketAddress::OfLocal(clients[i].get()), peers[i]);
      EXPECT_EQ(write(accepted[i].get(), "x", 1), 1);
      char byte = 0;
      EXPECT_EQ(read(clients[i].get(), &byte, 1), 1);
    }
  }
}

TEST(ConnectorTest, DestroyedBeforeTheAnswerStaysSilent) {
  event::EventLoop loop;
  Fd listener = *Listen({.address = *SocketAddress::Parse("127.0.0.1:0")});
  auto connector = std::make_unique<Connector>(
      loop, ConnectOptions{.to = *SocketAddress::OfLocal(listener.get())},
      [](Result<Fd>) { FAIL() << "was cancelled"; });
  connector.reset();
  loop.RunOnce(milliseconds(5));
}

}  // namespace
}  // namespace qanat::net
