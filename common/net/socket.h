// SPDX-License-Identifier: Apache-2.0
// The one place where data-plane sockets are made, so that marks, transparency and keepalive are
// set in one way. Sockets can be made inside another network namespace (common/netns).
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/net/address.h"
#include "common/net/transport.h"
#include "common/netns/netns.h"

namespace qanat::net {

struct ListenOptions {
  SocketAddress address;    // port 0: the kernel picks; read it back with SocketAddress::OfLocal
  bool dual_stack = false;  // address must be [::]; also takes IPv4
  bool reuse_port = false;
  bool transparent = false;  // IP_TRANSPARENT (needs CAP_NET_ADMIN)
  uint32_t mark = 0;         // SO_MARK, 0 = leave (needs CAP_NET_ADMIN)
  int backlog = 4096;
  const netns::NetNs* netns = nullptr;  // nullptr: the caller's
};
Result<Fd> Listen(const ListenOptions& options);

struct ConnectOptions {
  SocketAddress to;
  SocketAddress bind;  // optional source; with `transparent` it may be foreign
  bool transparent = false;
  uint32_t mark = 0;
  std::string bind_device;  // SO_BINDTODEVICE
  std::chrono::milliseconds timeout{10000};
  const netns::NetNs* netns = nullptr;
};
// Makes the socket and starts connect(); the result is a connecting non-blocking fd.
Result<Fd> StartConnect(const ConnectOptions& options);

// Connects and calls `done` exactly once on the loop's thread, never from inside the call.
// Destroying the object before that cancels.
class Connector {
 public:
  using Done = std::function<void(Result<Fd>)>;
  Connector(event::EventLoop& loop, const ConnectOptions& options, Done done);
  ~Connector();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// TCP_NODELAY and keepalive 180 s / 180 s x 9 (reference: the stock proxy's defaults).
void SetStreamOptions(int fd);

// Accepts on one listening fd (owned). When fds run out it stops for 100 ms instead of spinning.
class Acceptor {
 public:
  using OnAccept = std::function<void(Fd fd, SocketAddress peer)>;
  Acceptor(event::EventLoop& loop, Fd listener, OnAccept on_accept);
  ~Acceptor();
  SocketAddress local_address() const;
  int fd() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::net
