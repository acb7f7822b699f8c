// SPDX-License-Identifier: Apache-2.0
#include "common/takeover/datagram.h"

#include <array>
#include <cerrno>
#include <cstring>

#include "common/takeover/wire.h"

namespace qanat::takeover {

Status SendDatagram(int socket, const sockaddr* to, socklen_t to_size, std::string_view text,
                    std::span<const int> fds, int flags) {
  if (fds.size() > kMaxFdsPerDatagram) {
    return Fail(Code::kInvalidArgument, "more descriptors than one datagram takes");
  }
  iovec io{const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFdsPerDatagram * sizeof(int))> control{};
  msghdr message{};
  message.msg_name = const_cast<sockaddr*>(to);
  message.msg_namelen = to_size;
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  while (sendmsg(socket, &message, flags | MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return FailErrno("send a datagram");
  }
  return {};
}

Result<Datagram> ReceiveDatagram(int socket, size_t most) {
  Datagram out;
  out.text.resize(most);
  iovec io{out.text.data(), most};
  alignas(cmsghdr)
      std::array<char, CMSG_SPACE(kMaxFdsPerDatagram * sizeof(int)) + CMSG_SPACE(sizeof(ucred))>
          control;
  msghdr message{};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t size;
  do {
    size = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (size < 0 && errno == EINTR);
  if (size < 0) {
    auto failed = FailErrno("receive a datagram");
    if (errno == EAGAIN) failed.value().code = Code::kUnavailable;
    return failed;
  }
  out.text.resize(static_cast<size_t>(size));
  out.cut = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET) continue;
    if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len >= CMSG_LEN(sizeof(ucred))) {
      std::memcpy(&out.sender.emplace(), CMSG_DATA(c), sizeof(ucred));
    }
    if (c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      out.fds.emplace_back(fd);
    }
  }
  return out;
}

}  // namespace qanat::takeover
