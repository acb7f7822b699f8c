// SPDX-License-Identifier: Apache-2.0
// The server end of one HBONE tunnel: takes CONNECT streams and asks its owner about each. Lives on
// the loop of its transport (which has finished TLS).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/hbone/types.h"
#include "common/net/transport.h"

namespace qanat::hbone {

class Core;
struct SavedSession;
struct Stream;

struct InboundConnect {
  std::string authority;
  Headers headers;  // without pseudo headers
  std::string_view baggage() const { return Find(headers, "baggage"); }
  std::string_view forwarded() const { return Find(headers, "forwarded"); }
  std::string_view traceparent() const { return Find(headers, "traceparent"); }
};

// The right and the duty to answer one CONNECT. Destroying it unanswered refuses with 503.
class Responder {
 public:
  Responder() = default;
  Responder(Responder&&) noexcept;
  Responder& operator=(Responder&&) noexcept;
  ~Responder();

  // 200 with these headers. The stream behaves as ConnectResponse::stream does. nullptr when the
  // client has gone meanwhile.
  net::TransportPtr Accept(const Headers& headers = {});
  // Any other status, ends the stream. Stock: 400 bad request, 401 policy, 503 no upstream.
  void Reject(int status, const Headers& headers = {});
  // Called (at most once, while unanswered) when the client resets the stream or the tunnel ends.
  void OnGone(std::function<void()> gone);
  bool pending() const { return stream_ != nullptr; }

 private:
  friend class Core;
  explicit Responder(std::shared_ptr<Stream> stream) : stream_(std::move(stream)) {}
  std::shared_ptr<Stream> stream_;
};

class ServerSession {
 public:
  struct Events {
    // A well-formed CONNECT came. Anything else has been answered already (400).
    std::function<void(InboundConnect, Responder)> on_connect;
    // The session is over; called once, after all streams have been told. May destroy the session.
    std::function<void(const CloseReason&)> on_closed;
  };

  ServerSession(net::TransportPtr transport, const SessionOptions& options, Events events);
  // Goes on with a session that stood still (server's side); its streams' handles come in their
  // order. Of `options` only the times count.
  ServerSession(net::TransportPtr transport, const SessionOptions& options, Events events,
                SavedSession saved, std::vector<net::TransportPtr>& streams);
  ~ServerSession();  // closes at once: remaining streams read kReset
  ServerSession(const ServerSession&) = delete;
  ServerSession& operator=(const ServerSession&) = delete;

  // Graceful: GOAWAY that still allows streams on their way, one PING round trip later the final
  // GOAWAY; the tunnel ends after the last stream.
  void Drain();
  void Close(std::string_view why);  // now; streams read kReset
  size_t streams() const;
  SessionStats stats() const;
  // For a hand-over: whether it could stand still now, and the handles of its streams, in the order
  // of SavedSession::streams. Export() needs that answer, and is the end of this object: no event
  // comes any more, and nobody is told.
  std::optional<std::vector<const net::Transport*>> Freezable() const;
  SavedSession Export(net::TransportPtr& transport);
  std::shared_ptr<const tls::VerifiedPeer> verified_peer() const;
  size_t held() const;  // bytes that the peer does not take, of the session's own
  net::SocketAddress local_address() const;
  net::SocketAddress peer_address() const;

 private:
  std::unique_ptr<Core> core_;
};

}  // namespace qanat::hbone
