// SPDX-License-Identifier: Apache-2.0
// The client end of one HBONE tunnel: an HTTP/2 session that opens CONNECT streams. Lives on the
// loop of its transport (which has finished TLS). Usually owned by a Pool.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/hbone/types.h"
#include "common/net/transport.h"

namespace qanat::hbone {

class Core;
struct SavedSession;

struct ConnectRequest {
  std::string authority;  // "10.0.0.1:80", "[fd00::1]:80" or "host:80"
  Headers headers;        // baggage, forwarded, traceparent: sent in this order
  // The first bytes of the stream, kMostEarly at most, to go along with the request. Asked for when
  // it goes out to a peer that takes them, each time with the same answer. A peer that is known not
  // to have processed the request, or gave another answer than 200, has dropped them; of any other
  // failure it is not known. Who waits for the answer keeps them.
  std::function<std::span<const uint8_t>()> early;
  // By a pool: those that it had from `early` were dropped, and the request is made again.
  std::function<void()> early_dropped;
};

struct ConnectResponse {
  int status = 0;
  Headers headers;
  // Set exactly when status is 200. Reading kEof: END_STREAM (also RST_STREAM with NO_ERROR or
  // CANCEL, which stock peers send when they drop a stream); kReset: any other reset, or the tunnel
  // broke. Abort() sends RST_STREAM CONNECT_ERROR. It may outlive the session.
  net::TransportPtr stream;
  size_t early = 0;  // so many of the stream's bytes went along with the request: all, or none
  bool peer_takes_source = false;  // what the peer announced for the tunnel
  // When the tunnel was made: whoever sent it may have been allowed to then. TimePoint::min(): by
  // another process.
  event::TimePoint tunnel_made = event::TimePoint::min();
  event::Duration tunnel_handshake{};  // of that, its TLS handshake
};

// A CONNECT that waits for its answer; destroying it resets the stream (CANCEL).
class PendingConnect {
 public:
  virtual ~PendingConnect() = default;
};

class ClientSession {
 public:
  // The error says why no answer came. error.code kUnavailable with `retry_safe` marks a stream
  // that the peer certainly did not process (REFUSED_STREAM, or above GOAWAY's last stream).
  struct ConnectFailure {
    Error error;
    bool retry_safe = false;
  };
  using ConnectResult = tl::expected<ConnectResponse, ConnectFailure>;
  using OnResponse = std::function<void(ConnectResult)>;

  struct Events {
    // CanOpen() may have changed: a stream ended, SETTINGS or GOAWAY came.
    std::function<void()> on_change;
    // The session is over; called once, after all streams have been told. May destroy the session.
    std::function<void(const CloseReason&)> on_closed;
  };

  ClientSession(net::TransportPtr transport, const SessionOptions& options, Events events);
  // Goes on with a session that stood still (client's side); its streams' handles come in their
  // order. Of `options` only the times count.
  ClientSession(net::TransportPtr transport, const SessionOptions& options, Events events,
                SavedSession saved, std::vector<net::TransportPtr>& streams);
  ~ClientSession();  // closes at once: remaining streams read kReset
  ClientSession(const ClientSession&) = delete;
  ClientSession& operator=(const ClientSession&) = delete;

  // `done` is called once, never from inside Connect(), and not after the handle is gone.
  // Fails at once (through `done`) when CanOpen() is false.
  std::unique_ptr<PendingConnect> Connect(const ConnectRequest& request, OnResponse done);

  bool CanOpen() const;  // alive, no GOAWAY either way, below the peer's limit of streams
  size_t streams() const;
  uint32_t peer_max_streams() const;  // before SETTINGS came: 100
  bool settings_seen() const;
  bool peer_takes_source() const;  // before SETTINGS came: false
  event::TimePoint made() const;   // as ConnectResponse::tunnel_made
  // Bytes that its bulk streams moved lately; 0 when there are none to speak of.
  uint64_t bulk() const;
  SessionStats stats() const;
  bool closed() const;
  // No new streams; ends the tunnel (GOAWAY, close_notify) when the last stream has ended.
  void Drain();
  void Close(std::string_view why);         // now; streams read kReset
  const net::Transport* transport() const;  // null: over
  // For a hand-over: whether it could stand still now, and the handles of its streams, in the order
  // of SavedSession::streams. Export() needs that answer, and is the end of this object: no event
  // comes any more, and nobody is told.
  std::optional<std::vector<const net::Transport*>> Freezable() const;
  SavedSession Export(net::TransportPtr& transport);
  std::shared_ptr<const tls::VerifiedPeer> verified_peer() const;
  net::SocketAddress local_address() const;
  net::SocketAddress peer_address() const;

 private:
  std::unique_ptr<Core> core_;
};

}  // namespace qanat::hbone
