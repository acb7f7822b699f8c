// SPDX-License-Identifier: Apache-2.0
// Our side of an HBONE interoperability test: takes tunnels and connects where they ask, or carries
// plain connections through a tunnel. Built on common/hbone and one event loop.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/hbone/pool.h"
#include "common/hbone/server_session.h"
#include "common/net/socket.h"
#include "common/tls/tls_transport.h"

namespace qanat::interop {

// Carries bytes between two transports, each direction to its own end; an abort of one aborts the
// other. Calls `over` once both directions have ended.
class Relay {
 public:
  Relay(net::TransportPtr a, net::TransportPtr b, std::function<void()> over);
  ~Relay();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class OwnEnd {
 public:
  OwnEnd(event::EventLoop& loop, tls::TlsContextPtr context);
  ~OwnEnd();

  // Takes HBONE tunnels on `address` and connects each stream to its authority.
  void Serve(net::SocketAddress address);
  // Takes plain connections on `address` and sends each through a tunnel to `peer`, which must be
  // `identity`, as a CONNECT for `authority`.
  void Tunnel(net::SocketAddress address, net::SocketAddress peer, std::string identity,
              std::string authority);

  void DrainServers();                                      // GOAWAY on all tunnels taken so far
  size_t tunnels_taken() const;                             // all time
  std::vector<std::string> log;                             // what happened, for assertions
  std::function<int(const hbone::InboundConnect&)> policy;  // status; 200 lets it through

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::interop
