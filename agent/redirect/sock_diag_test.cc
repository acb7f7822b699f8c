// SPDX-License-Identifier: Apache-2.0
// On sockets of the test's own over loopback. Ending one needs CAP_NET_ADMIN.
#include "agent/redirect/sock_diag.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bpf/include/abi.h"
#include "common/base/fd.h"

namespace qanat::agent {
namespace {

uint64_t CookieOf(int fd) {
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  EXPECT_EQ(::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size), 0);
  return cookie;
}

// A listener, and a connection to it.
struct Pair {
  explicit Pair(const char* address) {
    const auto any = net::SocketAddress::Parse(address).value();
    sockaddr_storage storage;
    socklen_t size = any.ToSockaddr(storage);
    listener = Fd(::socket(any.ip().family(), SOCK_STREAM, 0));
    EXPECT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&storage), size), 0);
    EXPECT_EQ(::listen(listener.get(), 8), 0);
    to = net::SocketAddress::OfLocal(listener.get()).value();
    size = to.ToSockaddr(storage);
    client = Fd(::socket(any.ip().family(), SOCK_STREAM, 0));
    EXPECT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&storage), size), 0);
    server = Fd(::accept(listener.get(), nullptr, nullptr));
  }
  Fd listener, client, server;
  net::SocketAddress to;
};

const TcpSocket* Find(const std::vector<TcpSocket>& all, uint64_t cookie) {
  for (const auto& socket : all)
    if (socket.cookie == cookie) return &socket;
  return nullptr;
}

TEST(SockDiagTest, ListsBothEndsOfAConnectionAndNoListener) {
  for (const char* address : {"127.0.0.1:0", "[::1]:0"}) {
    Pair pair(address);
    const auto all = ListTcpSockets();
    ASSERT_TRUE(all) << all.error().message;
    const TcpSocket* client = Find(*all, CookieOf(pair.client.get()));
    const TcpSocket* server = Find(*all, CookieOf(pair.server.get()));
    ASSERT_TRUE(client && server);
    EXPECT_EQ(client->remote, pair.to);
    EXPECT_EQ(server->local, pair.to);
    EXPECT_EQ(client->state, TCP_ESTABLISHED);
    EXPECT_FALSE(client->accepted);
    EXPECT_TRUE(server->accepted);
    EXPECT_EQ(Find(*all, CookieOf(pair.listener.get())), nullptr);
  }
}

TEST(SockDiagTest, EndsThatConnectionAndNeverTheListener) {
  for (const char* address : {"127.0.0.1:0", "[::1]:0"}) {
    Pair pair(address);
    const auto all = ListTcpSockets();
    ASSERT_TRUE(all) << all.error().message;
    const TcpSocket* server = Find(*all, CookieOf(pair.server.get()));
    ASSERT_TRUE(server);
    ASSERT_TRUE(DestroyTcpSocket(*server)) << "needs CAP_NET_ADMIN";
    char byte = 0;
    EXPECT_LT(::recv(pair.client.get(), &byte, 1, 0), 0) << "reset, not an ordinary end";
    EXPECT_EQ(errno, ECONNRESET);
    // The tuple is free now and leads to the listener: the cookie keeps it alive.
    const Status again = DestroyTcpSocket(*server);
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().code, Code::kNotFound);
    TcpSocket nameless = *server;
    nameless.cookie = 0;
    EXPECT_EQ(DestroyTcpSocket(nameless).error().code, Code::kInvalidArgument);
    nameless.cookie = UINT64_MAX;
    nameless.id.idiag_cookie[0] = nameless.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    EXPECT_EQ(DestroyTcpSocket(nameless).error().code, Code::kInvalidArgument);
    int listening = 0;
    socklen_t size = sizeof listening;
    ::getsockopt(pair.listener.get(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &size);
    sockaddr_storage storage;
    size = pair.to.ToSockaddr(storage);
    Fd another(::socket(pair.to.ip().family(), SOCK_STREAM, 0));
    EXPECT_EQ(::connect(another.get(), reinterpret_cast<sockaddr*>(&storage), size), 0);
    EXPECT_EQ(listening, 1);
  }
}

TcpSocket Made(const char* local, const char* remote, uint32_t mark, uint64_t cgroup = 7) {
  TcpSocket socket;
  socket.local = net::SocketAddress::Parse(local).value();
  socket.remote = net::SocketAddress::Parse(remote).value();
  socket.mark = mark;
  socket.cgroup = cgroup;
  return socket;
}

TEST(SockDiagTest, PlainIsWhatNeitherTheProxyNorThePodItselfHolds) {
  const std::vector<net::IpAddress> own = {net::IpAddress::Parse("10.1.0.2").value(),
                                           net::IpAddress::Parse("fd00::2").value()};
  const std::set<uint64_t> proxy = {99};
  const auto plain = [&](const TcpSocket& socket) { return IsPlain(socket, own, proxy); };
  EXPECT_TRUE(plain(Made("10.1.0.2:40000", "10.2.0.3:80", 0)));
  EXPECT_TRUE(plain(Made("[fd00::2]:8080", "[fd00::9]:50000", 0)));
  EXPECT_TRUE(plain(Made("10.1.0.2:40000", "10.2.0.3:80", 5))) << "a mark of the application's";
  EXPECT_TRUE(plain(Made("10.1.0.2:40000", "10.2.0.3:80", 0, 0))) << "a kernel that does not say";
  EXPECT_FALSE(plain(Made("10.1.0.2:40000", "10.2.0.3:80", 0, 99)));
  EXPECT_FALSE(plain(Made("10.1.0.2:40000", "10.2.0.3:80", QANAT_MARK_PROXY)));
  EXPECT_FALSE(plain(Made("10.1.0.2:40000", "10.2.0.3:80", QANAT_MARK_ONE_PASS)));
  EXPECT_FALSE(plain(Made("10.1.0.2:40000", "10.2.0.3:80", QANAT_MARK_CAPTURE)));
  EXPECT_FALSE(plain(Made("10.1.0.2:8080", "10.2.0.3:1024", QANAT_MARK_LO_LEG)));
  EXPECT_FALSE(plain(Made("127.0.0.1:40000", "127.0.0.1:80", 0)));
  EXPECT_FALSE(plain(Made("10.1.0.2:40000", "10.1.0.2:80", 0)));
  EXPECT_FALSE(plain(Made("[fd00::2]:40000", "[fd00::2]:80", 0)));
}

TEST(SockDiagTest, WhatNeedsTheCaptureIsNotATunnel) {
  EXPECT_TRUE(NeedsCapture(Made("10.1.0.2:40000", "10.2.0.3:80", QANAT_MARK_CAPTURE)));
  EXPECT_TRUE(NeedsCapture(Made("10.1.0.2:8080", "10.2.0.3:1024", QANAT_MARK_LO_LEG)));
  EXPECT_TRUE(NeedsCapture(Made("10.1.0.2:8080", "10.2.0.3:50000", QANAT_MARK_PROXY)))
      << "the proxy has accepted it and has not reached the application yet";
  EXPECT_FALSE(NeedsCapture(Made("10.1.0.2:15008", "10.2.0.3:50000", QANAT_MARK_PROXY)));
  EXPECT_FALSE(NeedsCapture(Made("10.1.0.2:50000", "10.2.0.3:15008", QANAT_MARK_PROXY)));
  EXPECT_FALSE(NeedsCapture(Made("10.1.0.2:50000", "10.2.0.3:80", 0)));
}

TEST(SockDiagTest, TwoEndsAreOneConnection) {
  EXPECT_EQ(CountConnections({}), 0u);
  EXPECT_EQ(CountConnections({Made("10.1.0.2:40000", "10.2.0.3:80", QANAT_MARK_CAPTURE),
                              Made("10.2.0.3:80", "10.1.0.2:40000", QANAT_MARK_CAPTURE),
                              Made("10.1.0.2:40001", "10.2.0.3:80", QANAT_MARK_CAPTURE)}),
            2u);
}

}  // namespace
}  // namespace qanat::agent
