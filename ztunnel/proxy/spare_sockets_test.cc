// SPDX-License-Identifier: Apache-2.0
// How often a namespace is entered, and what is left when nobody connects any more. As root.
#include "ztunnel/proxy/spare_sockets.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {
int entered = 0;  // setns() calls
}

// In place of libc's, for the whole of this program.
extern "C" int setns(int fd, int kind) noexcept {
  ++entered;
  return static_cast<int>(syscall(SYS_setns, fd, kind));
}

namespace qanat::ztunnel {
namespace {

using std::chrono::milliseconds;

class SpareSocketsTest : public testing::Test {
 protected:
  SpareSocketsTest() {
    options_.to = *net::SocketAddress::OfLocal(listener_.get());
    options_.netns = &netns_;
    options_.keepalive.enabled = false;
    entered = 0;
  }
  Fd Connect() {
    auto fd = spare_.StartConnect(options_);
    EXPECT_TRUE(fd.has_value()) << fd.error().message;
    if (!fd) return {};
    EXPECT_TRUE(net::IsConnected(fd->get()));
    return std::move(*fd);
  }
  static int Option(const Fd& fd, int level, int option) {
    int value = -1;
    socklen_t size = sizeof value;
    getsockopt(fd.get(), level, option, &value, &size);
    return value;
  }
  void Wait(milliseconds time) {
    const auto end = event::Clock::now() + time;
    while (event::Clock::now() < end) loop_.RunOnce(milliseconds(5));
  }

  event::EventLoop loop_;
  const netns::NetNs netns_ = *netns::NetNs::Current();
  const Fd listener_ = *net::Listen({.address = *net::SocketAddress::Parse("127.0.0.1:0")});
  net::ConnectOptions options_;
  SpareSockets spare_{loop_};
};

TEST_F(SpareSocketsTest, OneVisitServesSeveralConnections) {
  for (int i = 0; i < 100; ++i) Connect();
  // 1, 2, 4, 8, and 8 from then on.
  EXPECT_EQ(entered, 2 * (3 + (93 + 7) / 8));
  EXPECT_LT(spare_.kept(), SpareSockets::kMostAtOnce);
}

TEST_F(SpareSocketsTest, ALoneConnectionLeavesNothing) {
  Connect();
  EXPECT_EQ(spare_.kept(), 0u);
  Wait(SpareSockets::kSoon + milliseconds(50));
  Connect();
  EXPECT_EQ(spare_.kept(), 0u) << "nobody else came in a second";
  EXPECT_EQ(entered, 4);
}

TEST_F(SpareSocketsTest, WhatNobodyTakesGoes) {
  for (int i = 0; i < 4; ++i) Connect();
  EXPECT_EQ(spare_.kept(), 3u);
  Wait(2 * SpareSockets::kSoon + milliseconds(100));
  EXPECT_EQ(spare_.kept(), 0u);
}

TEST_F(SpareSocketsTest, GoesWithItsNamespace) {
  for (int i = 0; i < 4; ++i) Connect();
  spare_.Forget(netns_);
  EXPECT_EQ(spare_.kept(), 0u);
  Connect();
  spare_.Clear();
  EXPECT_EQ(spare_.kept(), 0u);
}

TEST_F(SpareSocketsTest, EachKindHasItsOwn) {
  options_.mark = 0x77;
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Option(Connect(), SOL_SOCKET, SO_MARK), 0x77);
  options_.mark = 0;
  options_.no_delay = false;
  const Fd plain = Connect();
  EXPECT_EQ(Option(plain, SOL_SOCKET, SO_MARK), 0);
  EXPECT_EQ(Option(plain, IPPROTO_TCP, TCP_NODELAY), 0);
  EXPECT_EQ(Option(plain, SOL_SOCKET, SO_KEEPALIVE), 0);
  options_.transparent = true;
  options_.bind = *net::SocketAddress::Parse("127.0.0.9:0");
  const Fd other = Connect();
  EXPECT_EQ(Option(other, SOL_IP, IP_TRANSPARENT), 1);
  EXPECT_EQ(net::SocketAddress::OfLocal(other.get())->ip(), options_.bind.ip());
  EXPECT_EQ(spare_.kept(), 3u) << "of the first kind";
}

TEST_F(SpareSocketsTest, AllTogetherAreBounded) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < 2048) {
    files.rlim_cur = std::min<rlim_t>(files.rlim_max, 2048);
    setrlimit(RLIMIT_NOFILE, &files);
  }
  for (uint32_t mark = 1; mark <= 150; ++mark) {
    options_.mark = mark;
    for (int i = 0; i < 4; ++i) Connect();
  }
  EXPECT_LE(spare_.kept(), SpareSockets::kMostKept);
  EXPECT_GT(spare_.kept(), SpareSockets::kMostKept / 2);
}

TEST_F(SpareSocketsTest, AFailureIsTold) {
  options_.to = *net::SocketAddress::Parse("127.0.0.1:1");
  const auto refused = spare_.StartConnect(options_);
  // Refused at once or a moment later; never another socket's answer.
  if (refused) EXPECT_FALSE(net::IsConnected(refused->get()));
  options_.bind = *net::SocketAddress::Parse("203.0.113.7:0");
  const auto foreign = spare_.StartConnect(options_);
  ASSERT_FALSE(foreign.has_value());
  EXPECT_EQ(foreign.error().sys_errno, EADDRNOTAVAIL);
}

}  // namespace
}  // namespace qanat::ztunnel
