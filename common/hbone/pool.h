// SPDX-License-Identifier: Apache-2.0
// Tunnels shared by connections that go the same way: one Pool per worker loop. A tunnel is made
// when the first stream wants it; streams that come meanwhile wait for the same one; a tunnel that
// is full, or that the peer drains, is left alone and another is made; idle ones are closed. While
// all tunnels of a key are busy with bulk another is made ahead, for the streams that come next
// (placement.h). A stream that finds no room waits in line.
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
#include "common/hbone/pool_stats.h"
#include "common/hbone/saved_session.h"
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
  // Of a tunnel inside another one, through a network's gateway: what the outer one asks the
  // gateway for, and who the gateway must be (`destination` is its address). "": no such.
  std::string through_authority;
  std::vector<std::string> through_identities;
  // Its streams say their sources themselves (kSourceHeader), so it belongs to no pod: source_ip
  // and source_netns are empty. Only TryConnect() and Warm() take such a key.
  bool shared = false;
  auto operator<=>(const PoolKey&) const = default;
};

struct PoolOptions {
  SessionOptions session;
  uint32_t max_streams = 100;                        // POOL_MAX_STREAMS_PER_CONNECTION
  std::chrono::milliseconds idle_release{300000};    // POOL_UNUSED_RELEASE_TIMEOUT
  std::chrono::milliseconds connect_timeout{10000};  // dial, TLS and all; also a place in the line
  size_t stripes = 1;                                // tunnels of one key that bulk may have made
  size_t max_tunnels = 1024;                         // of one key; then streams wait in line
  std::shared_ptr<PoolCounters> counters;            // null: the pool's own
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
  tls::HandshakeShared* handshakes = nullptr;  // of the loop, if any
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
  // the handle cancels. A stream that the peer certainly did not process is tried again: twice, and
  // as often as needed where it was refused for a limit that the peer had not announced yet.
  std::unique_ptr<PendingConnect> Connect(const PoolKey& key, ConnectRequest request,
                                          ClientSession::OnResponse done);

  // The same on a tunnel that is there, has room and, where the key is shared, whose peer announced
  // to take sources. nullptr: there is none. A shared stream that the peer refuses is not tried
  // again, since the source's own tunnel may do.
  std::unique_ptr<PendingConnect> TryConnect(const PoolKey& key, ConnectRequest request,
                                             ClientSession::OnResponse done);
  // Makes a tunnel for the shared key, unless one has room or is being made. One whose peer takes
  // no sources is left alone.
  void Warm(const PoolKey& key);

  // Tunnels that match are drained: nothing new on them, they end with their last stream. New
  // streams get new tunnels (a pod went away, a certificate was renewed or revoked).
  void Drain(const std::function<bool(const PoolKey&)>& which);
  // Of this key, those that were made before.
  void DrainOlder(const PoolKey& key, event::TimePoint made_before);
  // The same, at once.
  void Close(const std::function<bool(const PoolKey&)>& which, std::string_view why);
  PoolStats stats() const;

  // ---- for a hand-over to another process

  // Tunnels that are not over, by numbers that are not used again; null: over.
  std::vector<uint64_t> Tunnels() const;
  const ClientSession* Find(uint64_t tunnel) const;
  // A tunnel that stands still, out of its pool. Needs Find(tunnel)->Freezable().
  struct Standing {
    PoolKey key;
    bool leaving = false;  // takes no new streams
    SavedSession session;
    net::TransportPtr transport;
  };
  Standing Take(uint64_t tunnel);
  // Goes on with it, and uses it for new streams. Its streams' handles come in their order.
  uint64_t Adopt(Standing standing, std::vector<net::TransportPtr>& streams);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::hbone
