// SPDX-License-Identifier: Apache-2.0
// The one place where data-plane sockets are made, so that marks, transparency and keepalive are
// set in one way. Sockets can be made inside another network namespace (common/netns).
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/net/address.h"
#include "common/net/transport.h"
#include "common/netns/netns.h"

namespace qanat::net {

// TCP keepalive of a stream; the defaults are those of the stock proxy.
struct KeepAlive {
  bool enabled = true;
  std::chrono::seconds time{180}, interval{180};
  int retries = 9;
  // Unacknowledged bytes end a connection as late as keepalive would (TCP_USER_TIMEOUT).
  bool user_timeout = false;
  bool operator==(const KeepAlive&) const = default;
};

struct ListenOptions {
  SocketAddress address;    // port 0: the kernel picks; read it back with SocketAddress::OfLocal
  bool dual_stack = false;  // address must be [::]; also takes IPv4
  bool reuse_port = false;
  bool transparent = false;  // IP_TRANSPARENT (needs CAP_NET_ADMIN)
  uint32_t mark = 0;         // SO_MARK, 0 = leave (needs CAP_NET_ADMIN)
  int backlog = 4096;
  // As SetStreamOptions(), inherited by every accepted socket.
  std::optional<KeepAlive> stream_options;
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
  KeepAlive keepalive;   // not needed for a stream that does not leave the kernel
  bool no_delay = true;  // TCP_NODELAY; else it is for the transport to set (Delay::kNagle)
};
// Makes the socket and starts connect(); the result is a connecting non-blocking fd.
Result<Fd> StartConnect(const ConnectOptions& options);
// The same in two steps, for who makes sockets ahead: so many as connections with these options
// need, whatever their addresses (the family counts, and the namespace), made in one visit of the
// namespace; fewer where one could not be made, and an error instead of none.
Result<std::vector<Fd>> MakeSockets(const ConnectOptions& options, size_t count);
// ... and bind and connect() on one of them.
Result<Fd> StartConnect(Fd made, const ConnectOptions& options);
// Whether it stands: where one kernel serves both ends it often does as soon as it was started, and
// nobody has to wait for an event that says so.
bool IsConnected(int fd);

// Connects and calls `done` exactly once on the loop's thread, never from inside the call.
// Destroying the object before that cancels.
class Connector {
 public:
  using Done = std::function<void(Result<Fd>)>;
  Connector(event::EventLoop& loop, const ConnectOptions& options, Done done);
  // Waits for what StartConnect() has started.
  Connector(event::EventLoop& loop, const ConnectOptions& options, Result<Fd> started, Done done);
  ~Connector();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

void SetNoDelay(int fd);  // TCP_NODELAY
// TCP_NODELAY and keepalive.
void SetStreamOptions(int fd, const KeepAlive& keepalive = {});

// Accepts on one listening fd (owned). When fds run out it stops for 100 ms instead of spinning.
class Acceptor {
 public:
  using OnAccept = std::function<void(Fd fd, SocketAddress peer)>;
  // `on_exhausted`: file descriptors or memory ran out, and for 100 ms nothing is accepted here;
  // what waits stays in the listener's queue. Without it that is logged.
  Acceptor(event::EventLoop& loop, Fd listener, OnAccept on_accept,
           std::function<void(const Error&)> on_exhausted = {});
  ~Acceptor();
  SocketAddress local_address() const;
  int fd() const;
  // From this number on descriptors are somebody else's, and to have none below is to have none.
  // One accepted connection may still get such a one.
  void KeepFrom(int first);
  // While paused nothing is accepted; who connects waits in the listener's queue (where another
  // process may have the same listener).
  void SetPaused(bool paused);
  // Takes who is in the queue now, unless paused: before the listener is closed, which resets them.
  void TakeWaiting();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::net
