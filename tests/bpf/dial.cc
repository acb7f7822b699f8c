// SPDX-License-Identifier: Apache-2.0
// What runs inside the namespaces: clients and application servers.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/net/address.h"
#include "tests/bpf/bed.h"

namespace qanat::test {
namespace {

constexpr int kMptcp = 262;
constexpr int kTcpFastOpenConnect = 30;
constexpr int kTcpFastOpenNoCookie = 34;

std::string ErrnoName(int error) {
  switch (error) {
    case ECONNREFUSED: return "error: ECONNREFUSED";
    case ETIMEDOUT: return "error: ETIMEDOUT";
    case ENETUNREACH: return "error: ENETUNREACH";
    case EHOSTUNREACH: return "error: EHOSTUNREACH";
    case EPERM: return "error: EPERM";
    case ECONNRESET: return "error: ECONNRESET";
    case EAGAIN: return "error: timeout";
    default: return std::string("error: ") + std::strerror(error);
  }
}

std::string ReadLine(int fd, int timeout_ms) {
  std::string line;
  for (;;) {
    pollfd p{fd, POLLIN, 0};
    if (::poll(&p, 1, timeout_ms) <= 0) return "error: timeout";
    char c = 0;
    const ssize_t n = ::recv(fd, &c, 1, 0);
    if (n < 0 && errno == EAGAIN) continue;
    if (n < 0) return ErrnoName(errno);
    if (n == 0) return line.empty() ? "error: closed" : line;
    if (c == '\n') return line;
    line += c;
  }
}

}  // namespace

std::string Call(const Dial& d) {
  auto to = net::SocketAddress::Parse(d.to);
  if (!to) return "error: " + to.error().message;
  const bool v6 = to->ip().is_v6() || d.as_mapped;
  const int fd = ::socket(v6 ? AF_INET6 : AF_INET,
                          SOCK_STREAM | SOCK_CLOEXEC | (d.nonblocking ? SOCK_NONBLOCK : 0),
                          d.mptcp ? kMptcp : 0);
  if (fd < 0) return ErrnoName(errno);
  const timeval limit{d.timeout_ms / 1000, (d.timeout_ms % 1000) * 1000};
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);  // bounds connect() too
  const int one = 1;
  if (d.mark != 0 && ::setsockopt(fd, SOL_SOCKET, SO_MARK, &d.mark, sizeof d.mark) != 0)
    return "error: SO_MARK";
  if (!d.device.empty() && ::setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, d.device.c_str(),
                                        static_cast<socklen_t>(d.device.size() + 1)) != 0)
    return "error: SO_BINDTODEVICE";
  if (d.transparent && ::setsockopt(fd, SOL_IP, IP_TRANSPARENT, &one, sizeof one) != 0)
    return "error: IP_TRANSPARENT";
  if (d.transparent && v6 && ::setsockopt(fd, SOL_IPV6, 75, &one, sizeof one) != 0)
    return "error: IPV6_TRANSPARENT";
  sockaddr_storage address;
  if (!d.bind.empty()) {
    auto from = net::SocketAddress::Parse(d.bind);
    const socklen_t size = from->ToSockaddr(address, v6);
    if (::bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0)
      return "error: bind: " + ErrnoName(errno);
  }
  if (d.drop_privileges && ::setresuid(65534, 65534, 65534) != 0) return "error: setresuid";
  const socklen_t size = to->ToSockaddr(address, v6);
  int result = 0;
  if (d.fastopen) {
    ::setsockopt(fd, IPPROTO_TCP, kTcpFastOpenConnect, &one, sizeof one);
    result = ::sendto(fd, "hi", 2, MSG_FASTOPEN, reinterpret_cast<sockaddr*>(&address), size) < 0
                 ? -1
                 : 0;
  } else {
    if (d.deferred) {
      ::setsockopt(fd, IPPROTO_TCP, kTcpFastOpenConnect, &one, sizeof one);
      ::setsockopt(fd, IPPROTO_TCP, kTcpFastOpenNoCookie, &one, sizeof one);
    }
    result = ::connect(fd, reinterpret_cast<sockaddr*>(&address), size);
  }
  if (d.deferred && result == 0) {
    if (d.late_mark != 0 &&
        ::setsockopt(fd, SOL_SOCKET, SO_MARK, &d.late_mark, sizeof d.late_mark) != 0)
      return "error: late SO_MARK";
    if (!d.late_device.empty() &&
        ::setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, d.late_device.c_str(),
                     static_cast<socklen_t>(d.late_device.size() + 1)) != 0)
      return "error: late SO_BINDTODEVICE";
    result = ::send(fd, "hi", 2, MSG_NOSIGNAL) < 0 ? -1 : 0;
  }
  if (result != 0 && errno == EINPROGRESS && d.nonblocking) {
    pollfd p{fd, POLLOUT, 0};
    if (::poll(&p, 1, d.timeout_ms) <= 0) return "error: timeout";
    int error = 0;
    socklen_t length = sizeof error;
    ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) return ErrnoName(error);
  } else if (result != 0) {
    return errno == EINPROGRESS ? "error: timeout" : ErrnoName(errno);
  }
  std::string self;
  if (d.say_self) {
    auto local = net::SocketAddress::OfLocal(fd), peer = net::SocketAddress::OfPeer(fd);
    if (local && peer) self = " self=" + local->ToString() + " peer=" + peer->ToString();
  }
  const std::string line = ReadLine(fd, d.timeout_ms);
  ::close(fd);
  return line + self;
}

void ServeApp(int port) {
  const int listener = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int one = 1, zero = 0;
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
  ::setsockopt(listener, SOL_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  any.sin6_port = htons(static_cast<uint16_t>(port));
  if (::bind(listener, reinterpret_cast<sockaddr*>(&any), sizeof any) != 0 ||
      ::listen(listener, 512) != 0)
    ::_exit(96);
  for (;;) {
    const int fd = ::accept(listener, nullptr, nullptr);
    if (fd < 0) continue;
    auto local = net::SocketAddress::OfLocal(fd), peer = net::SocketAddress::OfPeer(fd);
    const std::string line =
        "app " + (local ? local->ToString() : "?") + " " + (peer ? peer->ToString() : "?") + "\n";
    (void)!::send(fd, line.data(), line.size(), MSG_NOSIGNAL);
    ::close(fd);
  }
}

}  // namespace qanat::test
