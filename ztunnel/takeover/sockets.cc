// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/takeover/sockets.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "common/netns/netns.h"

namespace qanat::ztunnel {

void ResetWhenClosed(int fd, bool on) {
  const linger option{on ? 1 : 0, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &option, sizeof option);
}

Status CheckSocket(int fd) {
  int protocol = 0;
  socklen_t size = sizeof protocol;
  if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) != 0 || protocol != IPPROTO_TCP) {
    return Fail(Code::kInvalidArgument, "not a TCP socket");
  }
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_NONBLOCK) == 0) return Fail(Code::kInvalidArgument, "it blocks");
  return {};
}

Status CheckNamespace(int fd) {
  constexpr int kSoNetnsCookie = 71;  // SO_NETNS_COOKIE, Linux 5.14
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  if (getsockopt(fd, SOL_SOCKET, kSoNetnsCookie, &cookie, &size) != 0) {
    return FailErrno("SO_NETNS_COOKIE of a tunnel");
  }
  QANAT_ASSIGN_OR_RETURN(const uint64_t own, netns::OwnCookie());
  if (cookie == own) return {};
  return Fail(Code::kNotFound, "it is of the other process's network namespace");
}

}  // namespace qanat::ztunnel
