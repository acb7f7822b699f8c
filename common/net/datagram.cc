// SPDX-License-Identifier: Apache-2.0
#include "common/net/datagram.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

namespace qanat::net {
namespace {

Status SetInt(int fd, int level, int option, int value, const char* name) {
  if (setsockopt(fd, level, option, &value, sizeof value) != 0) return FailErrno(name);
  return {};
}

Status Configure(int fd, int family, const DatagramOptions& options) {
  if (family == AF_INET6 && options.bind.is_set()) {
    QANAT_RETURN_IF_ERROR(SetInt(fd, SOL_IPV6, IPV6_V6ONLY, 1, "IPV6_V6ONLY"));
  }
  if (options.reuse_port) {
    QANAT_RETURN_IF_ERROR(SetInt(fd, SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT"));
  }
  if (options.packet_info) {
    QANAT_RETURN_IF_ERROR(family == AF_INET6
                              ? SetInt(fd, SOL_IPV6, IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO")
                              : SetInt(fd, SOL_IP, IP_PKTINFO, 1, "IP_PKTINFO"));
  }
  if (options.freebind && family == AF_INET6) {
    QANAT_RETURN_IF_ERROR(SetInt(fd, SOL_IPV6, IPV6_FREEBIND, 1, "IPV6_FREEBIND"));
  }
  if (options.mark != 0) {
    QANAT_RETURN_IF_ERROR(SetInt(fd, SOL_SOCKET, SO_MARK, static_cast<int>(options.mark),
                                 "SO_MARK (needs CAP_NET_ADMIN)"));
  }
  if (!options.bind_device.empty() &&
      setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, options.bind_device.data(),
                 static_cast<socklen_t>(options.bind_device.size())) != 0) {
    return FailErrno("SO_BINDTODEVICE " + options.bind_device);
  }
  sockaddr_storage storage;
  if (options.bind.is_set()) {
    const socklen_t size = options.bind.ToSockaddr(storage);
    if (bind(fd, reinterpret_cast<sockaddr*>(&storage), size) != 0) {
      return FailErrno(
          errno == EADDRINUSE ? "bind: another process has the port (ss -lnup shows it)" : "bind",
          errno);
    }
  }
  if (options.connect.is_set()) {
    const socklen_t size = options.connect.ToSockaddr(storage);
    if (connect(fd, reinterpret_cast<sockaddr*>(&storage), size) != 0) return FailErrno("connect");
  }
  return {};
}

Result<Fd> Open(const DatagramOptions& options, int type) {
  const SocketAddress& address = options.bind.is_set() ? options.bind : options.connect;
  const int family = address.ip().family();
  const auto annotate = [&](const Error& error) {
    return Fail(error.Annotate((type == SOCK_DGRAM ? "UDP socket for " : "listen on ") +
                               address.ToString()));
  };
  Fd fd;
  const auto make = [&]() -> Status {
    fd.Reset(socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) return FailErrno("socket");
    return {};
  };
  const Status made = options.netns == nullptr ? make() : options.netns->Run(make);
  if (!made) return annotate(made.error());
  if (type == SOCK_STREAM) {
    if (Status status = SetInt(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR"); !status) {
      return annotate(status.error());
    }
  }
  if (Status status = Configure(fd.get(), family, options); !status) {
    return annotate(status.error());
  }
  return fd;
}

}  // namespace

Result<Fd> OpenDatagram(const DatagramOptions& options) { return Open(options, SOCK_DGRAM); }

Result<Fd> ListenBeside(const DatagramOptions& options) {
  DatagramOptions stream = options;
  stream.packet_info = stream.freebind = false;
  QANAT_ASSIGN_OR_RETURN(Fd fd, Open(stream, SOCK_STREAM));
  if (listen(fd.get(), SOMAXCONN) != 0) {
    return Fail(FailErrno("listen").value().Annotate("listen on " + options.bind.ToString()));
  }
  return fd;
}

bool ReceivePacket(int fd, std::span<uint8_t> buffer, Packet& packet) {
  sockaddr_storage peer;
  iovec io{buffer.data(), buffer.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(in6_pktinfo)) + CMSG_SPACE(sizeof(in_pktinfo))];
  msghdr message{};
  message.msg_name = &peer;
  message.msg_namelen = sizeof peer;
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = recvmsg(fd, &message, 0);
  if (n < 0) return false;
  packet = Packet{};
  packet.peer = SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&peer));
  packet.size = static_cast<size_t>(n);
  packet.cut = (message.msg_flags & MSG_TRUNC) != 0;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    sockaddr_storage local{};
    if (c->cmsg_level == SOL_IP && c->cmsg_type == IP_PKTINFO) {
      in_pktinfo info;
      std::memcpy(&info, CMSG_DATA(c), sizeof info);
      auto* v4 = reinterpret_cast<sockaddr_in*>(&local);
      v4->sin_family = AF_INET;
      v4->sin_addr = info.ipi_addr;
      packet.device = info.ipi_ifindex;
    } else if (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info;
      std::memcpy(&info, CMSG_DATA(c), sizeof info);
      auto* v6 = reinterpret_cast<sockaddr_in6*>(&local);
      v6->sin6_family = AF_INET6;
      v6->sin6_addr = info.ipi6_addr;
      packet.device = static_cast<int>(info.ipi6_ifindex);
    } else {
      continue;
    }
    packet.local = SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&local)).ip();
  }
  return true;
}

bool SendPacket(int fd, std::span<const uint8_t> data, const SocketAddress& peer,
                const IpAddress& local) {
  int family = AF_INET;
  socklen_t family_size = sizeof family;
  getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &family_size);
  sockaddr_storage to;
  iovec io{const_cast<uint8_t*>(data.data()), data.size()};  // the kernel does not write there
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(in6_pktinfo))] = {};
  msghdr message{};
  message.msg_name = &to;
  message.msg_namelen = peer.ToSockaddr(to, family == AF_INET6);
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  if (local.is_set()) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    sockaddr_storage from;
    SocketAddress(local, 0).ToSockaddr(from, family == AF_INET6);
    if (family == AF_INET6) {
      in6_pktinfo info{};
      info.ipi6_addr = reinterpret_cast<sockaddr_in6*>(&from)->sin6_addr;
      c->cmsg_level = SOL_IPV6;
      c->cmsg_type = IPV6_PKTINFO;
      c->cmsg_len = CMSG_LEN(sizeof info);
      std::memcpy(CMSG_DATA(c), &info, sizeof info);
    } else {
      in_pktinfo info{};
      info.ipi_spec_dst = reinterpret_cast<sockaddr_in*>(&from)->sin_addr;
      c->cmsg_level = SOL_IP;
      c->cmsg_type = IP_PKTINFO;
      c->cmsg_len = CMSG_LEN(sizeof info);
      std::memcpy(CMSG_DATA(c), &info, sizeof info);
    }
    message.msg_controllen = c->cmsg_len;
  }
  return sendmsg(fd, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(data.size());
}

}  // namespace qanat::net
