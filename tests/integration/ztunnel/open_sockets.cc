// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/ztunnel/open_sockets.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <filesystem>
#include <string>

namespace qanat::ztunnel::test {
namespace {

constexpr int kSoNetnsCookie = 71;

template <typename T>
T Option(int fd, int level, int name) {
  T value{};
  socklen_t size = sizeof value;
  return getsockopt(fd, level, name, &value, &size) == 0 ? value : T{};
}

}  // namespace

uint32_t OpenSocket::mark() const { return Option<uint32_t>(fd, SOL_SOCKET, SO_MARK); }

std::vector<int> OpenSocket::keepalive() const {
  return {Option<int>(fd, SOL_SOCKET, SO_KEEPALIVE), Option<int>(fd, IPPROTO_TCP, TCP_KEEPIDLE),
          Option<int>(fd, IPPROTO_TCP, TCP_KEEPINTVL), Option<int>(fd, IPPROTO_TCP, TCP_KEEPCNT)};
}

std::vector<OpenSocket> FindSockets(const std::function<bool(const OpenSocket&)>& fits) {
  std::vector<OpenSocket> out;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    OpenSocket socket;
    socket.fd = std::stoi(entry.path().filename());
    const int family = Option<int>(socket.fd, SOL_SOCKET, SO_DOMAIN);
    if (family != AF_INET && family != AF_INET6) continue;
    socket.netns = Option<uint64_t>(socket.fd, SOL_SOCKET, kSoNetnsCookie);
    socket.tcp = Option<int>(socket.fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP;
    socket.listens = Option<int>(socket.fd, SOL_SOCKET, SO_ACCEPTCONN) != 0;
    socket.local = net::SocketAddress::OfLocal(socket.fd).value_or(net::SocketAddress());
    socket.peer = net::SocketAddress::OfPeer(socket.fd).value_or(net::SocketAddress());
    if (fits(socket)) out.push_back(socket);
  }
  return out;
}

std::vector<uint32_t> Marks(const std::vector<OpenSocket>& sockets) {
  std::vector<uint32_t> out;
  for (const OpenSocket& socket : sockets) out.push_back(socket.mark());
  return out;
}

}  // namespace qanat::ztunnel::test
