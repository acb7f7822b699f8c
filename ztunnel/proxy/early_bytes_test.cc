// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/early_bytes.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/hbone/types.h"
#include "common/net/socket.h"

namespace qanat::ztunnel {
namespace {

class EarlyBytesTest : public testing::Test {
 protected:
  EarlyBytesTest() {
    const Fd listener = *net::Listen({.address = *net::SocketAddress::Parse("127.0.0.1:0")});
    client_ = *net::StartConnect({.to = *net::SocketAddress::OfLocal(listener.get())});
    fd_.Reset(accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  }
  void Send(std::string_view text) {
    ASSERT_EQ(send(client_.get(), text.data(), text.size(), 0), std::ssize(text));
  }
  std::string Give() {
    const auto bytes = early_.Give(fd_.get());
    return {bytes.begin(), bytes.end()};
  }

  Fd client_, fd_;
  MemoryMeter loop_, owner_;
  EarlyBytes early_{loop_, owner_};
};

TEST_F(EarlyBytesTest, TheSameForEverybodyWhoMayHaveThem) {
  Send("hello");
  EXPECT_EQ(Give(), "hello");
  EXPECT_TRUE(early_.given());
  EXPECT_GE(owner_.held(), 5u);
  Send(" world");
  early_.Dropped();
  EXPECT_FALSE(early_.given());
  EXPECT_EQ(Give(), "hello") << "read once";
  EXPECT_TRUE(early_.given());
  const RelayEarly end = early_.Take(5);
  EXPECT_EQ(end.sent, 5u);
  EXPECT_TRUE(end.unsent.empty());
  EXPECT_TRUE(end.all);
  EXPECT_EQ(owner_.held(), 0u);
}

TEST_F(EarlyBytesTest, WhatNobodyGotIsStillToBeSent) {
  Send("hello");
  Give();
  const RelayEarly end = early_.Take(0);
  EXPECT_EQ(end.sent, 0u);
  EXPECT_EQ(std::string(end.unsent.begin(), end.unsent.end()), "hello");
}

TEST_F(EarlyBytesTest, NothingIsNotGiven) {
  EXPECT_EQ(Give(), "");
  EXPECT_FALSE(early_.given()) << "another endpoint may be tried";
  Send("late");
  EXPECT_EQ(Give(), "") << "a second look would be one too many";
  EXPECT_FALSE(early_.Take(0).all) << "the relay is to look";
}

TEST_F(EarlyBytesTest, NoMoreThanPeersTake) {
  Send(std::string(3 * hbone::kMostEarly, 'x'));
  EXPECT_EQ(Give().size(), hbone::kMostEarly);
  EXPECT_FALSE(early_.Take(hbone::kMostEarly).all);
}

// The kernel tells of a reset once; who reads after that sees an end in order.
TEST_F(EarlyBytesTest, AResetIsKept) {
  const linger reset{1, 0};
  setsockopt(client_.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  client_.Reset();
  EXPECT_EQ(Give(), "");
  EXPECT_FALSE(early_.error().empty());
  char byte;
  EXPECT_EQ(recv(fd_.get(), &byte, 1, 0), 0);
}

TEST_F(EarlyBytesTest, AnEndIsNoError) {
  shutdown(client_.get(), SHUT_WR);
  EXPECT_EQ(Give(), "");
  EXPECT_TRUE(early_.error().empty());
}

}  // namespace
}  // namespace qanat::ztunnel
