// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/original_destination.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include "common/lb/draw.h"

namespace qanat::ztunnel {
namespace {
constexpr int kSoOriginalDst = 80;  // SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST
constexpr uint16_t kOutbound = 15001;

uint32_t MarkOf(int fd) {
  uint32_t mark = 0;
  socklen_t size = sizeof mark;
  return getsockopt(fd, SOL_SOCKET, SO_MARK, &mark, &size) == 0 ? mark : 0;
}
}  // namespace

std::optional<OriginalDestination> FindOriginalDestination(int fd, uint16_t listener_port) {
  const auto local = net::SocketAddress::OfLocal(fd);
  if (!local) return std::nullopt;
  // Another port than the listener's: the packets came as they were sent, by a listener lookup or
  // TPROXY. A REDIRECT leads to the listener's own port.
  if (local->port() != listener_port) {
    return OriginalDestination{*local, false,
                               listener_port == kOutbound ? lb::DrawCodeOfMark(MarkOf(fd)) : 0};
  }
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  // Asked for in the family of the packets: an IPv4 connection on a dual-stack socket is IPv4.
  const int level = local->ip().is_v4() ? SOL_IP : SOL_IPV6;
  if (getsockopt(fd, level, kSoOriginalDst, &storage, &size) == 0) {
    const auto nat = net::SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&storage));
    // Conntrack may track without having rewritten anything.
    if (nat.is_set() && nat != *local) return OriginalDestination{nat, true, 0};
  }
  return std::nullopt;
}

}  // namespace qanat::ztunnel
