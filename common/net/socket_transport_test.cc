// SPDX-License-Identifier: Apache-2.0
// How a socket's transport asks the kernel: by edge as long as nothing is left behind, and never so
// that something is left unsaid.
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <functional>

#include "common/net/socket.h"
#include "common/net/transport.h"

namespace {
int asked = 0;  // epoll_ctl() calls
}

// In place of libc's, for the whole of this program.
extern "C" int epoll_ctl(int epoll, int what, int fd, epoll_event* event) noexcept {
  ++asked;
  return static_cast<int>(syscall(SYS_epoll_ctl, epoll, what, fd, event));
}

namespace qanat::net {
namespace {

using std::chrono::milliseconds;
using Kind = IoResult::Kind;

struct Reader final : TransportEvents {
  std::function<void()> readable = [] {};
  void OnReadable() override {
    ++calls;
    readable();
  }
  void OnWritable() override {}
  int calls = 0;
};

class SocketTransportTest : public testing::Test {
 protected:
  SocketTransportTest() {
    const Fd listener = *Listen({.address = *SocketAddress::Parse("127.0.0.1:0")});
    peer_ = *StartConnect({.to = *SocketAddress::OfLocal(listener.get())});
    Fd fd(accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    EXPECT_TRUE(fd);
    transport_ = MakeSocketTransport(loop_, std::move(fd));
    transport_->SetEvents(&reader_);
    reader_.readable = [this] { ReadOnce(4096); };
    asked = 0;
  }
  void ReadOnce(size_t most) {
    std::string into(most, '\0');
    const IoResult got = transport_->Read({reinterpret_cast<uint8_t*>(into.data()), most});
    text_ += into.substr(0, got.bytes);
    if (got.kind == Kind::kOk || got.kind == Kind::kWouldBlock) return;
    end_ = got.kind;
    transport_->ReadEnable(false);
  }
  void Send(std::string_view text, int flags = 0) {
    ASSERT_EQ(send(peer_.get(), text.data(), text.size(), flags), std::ssize(text));
  }
  // As many rounds as there is something to do in.
  int Rounds() {
    int rounds = 0;
    for (int before = -1; before != reader_.calls && rounds < 100; ++rounds) {
      before = reader_.calls;
      loop_.RunOnce(milliseconds(20));
    }
    return rounds;
  }

  event::EventLoop loop_;
  Reader reader_;
  Fd peer_;
  TransportPtr transport_;
  std::string text_;
  Kind end_ = Kind::kOk;
};

TEST_F(SocketTransportTest, AConversationAndItsEndAskOnce) {
  transport_->ReadEnable(true);
  for (int i = 0; i < 10; ++i) {
    Send("x");
    loop_.RunOnce(milliseconds(100));
  }
  EXPECT_EQ(text_, "xxxxxxxxxx");
  shutdown(peer_.get(), SHUT_WR);
  Rounds();
  EXPECT_EQ(end_, Kind::kEof);
  EXPECT_EQ(reader_.calls, 11);
  transport_.reset();
  EXPECT_EQ(asked, 1);
}

TEST_F(SocketTransportTest, BytesAndTheEndBehindThemAreBothTold) {
  Send("last words");
  shutdown(peer_.get(), SHUT_WR);
  transport_->ReadEnable(true);
  Rounds();
  EXPECT_EQ(text_, "last words");
  EXPECT_EQ(end_, Kind::kEof);
  EXPECT_EQ(asked, 1);
}

TEST_F(SocketTransportTest, WhoLeavesSomethingIsCalledAgain) {
  reader_.readable = [this] { ReadOnce(1); };
  Send("0123456789");
  transport_->ReadEnable(true);
  Rounds();
  EXPECT_EQ(text_, "0123456789");
}

TEST_F(SocketTransportTest, WhoReadsNothingIsCalledAgain) {
  reader_.readable = [this] {
    if (reader_.calls >= 5) ReadOnce(100);
  };
  Send("late");
  transport_->ReadEnable(true);
  Rounds();
  EXPECT_EQ(text_, "late");
}

TEST_F(SocketTransportTest, WhoReadsByOtherMeansIsCalledAgain) {
  reader_.readable = [this] {
    char byte;
    if (read(transport_->splice_fd(), &byte, 1) == 1) text_ += byte;
  };
  Send("spliced");
  transport_->ReadEnable(true);
  Rounds();
  EXPECT_EQ(text_, "spliced");
}

TEST_F(SocketTransportTest, WhatCameInAPauseIsToldAfterIt) {
  transport_->ReadEnable(true);
  Send("a");
  Rounds();
  transport_->ReadEnable(false);
  Send("b");
  const int calls = reader_.calls;
  Rounds();
  EXPECT_EQ(reader_.calls, calls);
  transport_->ReadEnable(true);
  Rounds();
  EXPECT_EQ(text_, "ab");
}

TEST_F(SocketTransportTest, APauseInWhichNothingCameIsFree) {
  transport_->ReadEnable(true);
  Send("a");
  Rounds();
  for (int i = 0; i < 3; ++i) {
    transport_->ReadEnable(false);
    transport_->ReadEnable(true);
  }
  Send("b");
  Rounds();
  EXPECT_EQ(text_, "ab");
  EXPECT_EQ(asked, 1);
}

TEST_F(SocketTransportTest, WhatCameWhileNobodyListenedIsToldToTheNext) {
  transport_->SetEvents(nullptr);
  transport_->ReadEnable(true);
  Send("hello");
  Rounds();
  EXPECT_EQ(reader_.calls, 0);
  transport_->SetEvents(&reader_);
  Rounds();
  EXPECT_EQ(text_, "hello");
}

// A read stops before an urgent byte, with a short count although more is there.
TEST_F(SocketTransportTest, WhatStandsBehindAnUrgentByteIsTold) {
  transport_->ReadEnable(true);
  Send("a");
  Rounds();
  Send("bc", MSG_OOB);
  Send("de");
  Rounds();
  EXPECT_EQ(text_, "abde");  // "c" is the urgent one
}

TEST_F(SocketTransportTest, AResetInAPauseIsToldAfterIt) {
  transport_->ReadEnable(true);
  transport_->ReadEnable(false);
  const linger hard{1, 0};
  setsockopt(peer_.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  peer_.Reset();
  EXPECT_LE(Rounds(), 2);
  transport_->ReadEnable(true);
  Rounds();
  EXPECT_EQ(end_, Kind::kReset);
}

TEST_F(SocketTransportTest, SaysWhenThePeersKernelAnsweredLast) {
  usleep(300'000);
  ASSERT_TRUE(transport_->last_acknowledged());
  EXPECT_GE(*transport_->last_acknowledged(), milliseconds(200));
  // What comes acknowledges too; nobody needs to read it.
  Send("a");
  EXPECT_LT(*transport_->last_acknowledged(), milliseconds(200));
  transport_->Abort();
  EXPECT_FALSE(transport_->last_acknowledged());
  EXPECT_FALSE(MakePipe(loop_).first->last_acknowledged());
}

}  // namespace
}  // namespace qanat::net
