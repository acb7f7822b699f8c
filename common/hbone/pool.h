// SPDX-License-Identifier: Apache-2.0
// Tunnels shared by connections that go the same way: one Pool per worker loop. A tunnel is made
// when the first stream wants it; streams that come meanwhile wait for the same one; a tunnel that
// is full, or that the peer drains, is left alone and another is made; idle ones are closed.
#pragma once

#include <chrono>
#include <compare>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/hbone/client_session.h"
#include "common/hbone/types.h"
#include "common/net/address.h"
#include "common/net/socket.h"
#include "common/tls/tls_transport.h"

namespace qanat::hbone {

// Two connections may share a tunnel only if all of this is equal (stock ztunnel, pool.rs: the
// receiver takes the client's address from the tunnel, hence the source address).
struct PoolKey {
  std::string source_identity;
  std::vector<std::string> destination_identities;  // any of these; order does not matter
  net::SocketAddress destination;  // the peer's HBONE address, port 15008 as a rule
  net::IpAddress source_ip;
  uint64_t source_netns = 0;  // namespace cookie: a reused pod address is another source
  auto operator<=>(const PoolKey&) const = default;
};

struct PoolOptions {
  SessionOptions session;
  uint32_t max_streams = 100;                        // POOL_MAX_STREAMS_PER_CONNECTION
  std::chrono::milliseconds idle_release{300000};    // POOL_UNUSED_RELEASE_TIMEOUT
  std::chrono::milliseconds connect_timeout{10000};  // dial, TLS and all
};

struct PoolStats {
  size_t tunnels = 0;  // established, also those that drain
  size_t dialing = 0;
  size_t waiting = 0;   // streams that wait for a tunnel
  uint64_t dialed = 0;  // attempts since the start
  uint64_t failed = 0;
};

// Makes a tunnel's transport, TLS done. `done` is called once, not from inside; destroying the
// returned object cancels.
using Dial = std::function<std::unique_ptr<event::Deferred>(
    const PoolKey& key, std::function<void(Result<net::TransportPtr>)> done)>;

// The usual Dial: TCP, then TLS that expects one of the key's destination identities. `prepare`
// is asked each time for the present certificate and socket options (`to` is set by the dialer).
struct DialPlan {
  tls::TlsContextPtr context;
  net::ConnectOptions connect;
};
Dial MakeTlsDial(event::EventLoop& loop, std::function<Result<DialPlan>(const PoolKey&)> prepare,
                 std::chrono::milliseconds timeout = std::chrono::seconds(10));

class Pool {
 public:
  Pool(event::EventLoop& loop, PoolOptions options, Dial dial);
  ~Pool();  // closes all tunnels at once; waiting streams get an error first
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Opens a stream on a tunnel for this key. `done` is called once, never from inside; destroying
  // the handle cancels. A stream that the peer certainly did not process is retried once on another
  // tunnel.
  std::unique_ptr<PendingConnect> Connect(const PoolKey& key, ConnectRequest request,
                                          ClientSession::OnResponse done);

  // Tunnels that match are drained: nothing new on them, they end with their last stream. New
  // streams get new tunnels (a pod went away, a certificate was renewed or revoked).
  void Drain(const std::function<bool(const PoolKey&)>& which);
  // The same, at once.
  void Close(const std::function<bool(const PoolKey&)>& which, std::string_view why);
  PoolStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::hbone
