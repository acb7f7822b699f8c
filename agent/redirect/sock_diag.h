// SPDX-License-Identifier: Apache-2.0
// The kernel's list of TCP sockets (NETLINK_SOCK_DIAG), and the end of one of them. Every call acts
// on the network namespace of the calling thread: use inside netns::NetNs::Run(). Stateless;
// blocking for the time of one walk through the kernel's table.
#pragma once

#include <linux/inet_diag.h>

#include <cstdint>
#include <set>
#include <vector>

#include "common/base/result.h"
#include "common/net/address.h"

namespace qanat::agent {

struct TcpSocket {
  net::SocketAddress local, remote;
  uint8_t state = 0;    // TCP_ESTABLISHED ... of netinet/tcp.h
  uint64_t cookie = 0;  // of the socket; the kernel uses none twice
  uint32_t mark = 0;
  uint64_t cgroup = 0;    // of the process that made it; 0: the kernel does not say
  bool accepted = false;  // somebody listens on its port here: the peer connected to us
  uint64_t bytes_sent = 0, bytes_received = 0;  // payload, where it was asked for
  // How the kernel names it.
  uint8_t family = 0;
  inet_diag_sockid id{};
};

// All sockets with a peer: connecting, established, closing; neither listeners nor TIME_WAIT.
enum class WithBytes : uint8_t { kNo, kYes };
Result<std::vector<TcpSocket>> ListTcpSockets(WithBytes bytes = WithBytes::kNo);

// Resets the connection: its owner sees ECONNABORTED, its peer RST. Only ever that very socket:
// without a cookie the kernel would take the listener of the port when the connection is gone.
// kNotFound: it has ended by itself.
Status DestroyTcpSocket(const TcpSocket& socket);
// The same of a connection that is known by its addresses, as its own end names them.
Status DestroyTcpSocket(const net::SocketAddress& local, const net::SocketAddress& remote,
                        uint64_t cookie);
// And of one that may be bound to a device since: the kernel finds it by its addresses only where
// the device is told too. Walks through all sockets.
Status DestroyTcpSocketByCookie(uint64_t cookie);

// Pure. A connection that leaves or enters the pod past the proxy: neither inside the pod, nor
// captured, nor the proxy's (by mark or by cgroup).
bool IsPlain(const TcpSocket& socket, const std::vector<net::IpAddress>& own,
             const std::set<uint64_t>& proxy_cgroups);
// Pure. A connection that needs the capture as long as it lives: the application's two ends of it,
// and the proxy's beside them. Not its tunnels, which are kept for the next connection.
bool NeedsCapture(const TcpSocket& socket);
// Pure. Two sockets that are each other's ends are one. (A plaintext connection to the pod is two:
// one to the proxy, one from it.)
size_t CountConnections(const std::vector<TcpSocket>& sockets);

}  // namespace qanat::agent
