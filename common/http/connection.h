// SPDX-License-Identifier: Apache-2.0
// HTTP connections over any net::Transport, one interface for HTTP/1.1 and HTTP/2, server and
// client side. The codecs do framing and protocol safety; routing, policy and retries are above.
// All calls and callbacks are on the thread of the transport's loop.
//
// Life of a stream: it belongs to its connection. The user gets a reference and sets its
// StreamEvents. OnClosed() is the last event and comes exactly once, after which the reference is
// dead; the user's own Reset() also ends it: no event follows it. A connection that is destroyed
// drops its streams without events. No callback runs inside the user's own call into a stream or
// connection, except that Open() may fail at once by returning nullptr.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/event/event_loop.h"
#include "common/http/message.h"
#include "common/net/transport.h"

namespace qanat::http {

enum class CloseReason : uint8_t {
  kDone,            // both directions ended in order
  kPeerReset,       // RST_STREAM, or HTTP/1 closed in the middle of a message
  kRefused,         // the peer certainly did not act on it (REFUSED_STREAM, GOAWAY): retry is safe
  kConnectionLost,  // the connection went away under it
  kProtocolError,   // the peer broke the protocol
  kTooLarge,        // headers over the limit
};
std::string_view CloseReasonName(CloseReason reason);

class StreamEvents {
 public:
  // Client side only. By value: an implementation keeps them.
  // NOLINTBEGIN(performance-unnecessary-value-param)
  virtual void OnInformational(ResponseHead) {}  // 1xx but 101
  virtual void OnResponse(ResponseHead, bool /*end*/) {}
  // NOLINTEND(performance-unnecessary-value-param)
  // Both sides. `end`: nothing more comes in this direction.
  virtual void OnData(std::string_view data, bool end) = 0;
  virtual void OnTrailers(HeaderList trailers) = 0;  // implies end
  // The bytes waiting to be sent fell under the low mark after having been over the high mark.
  virtual void OnWritable() {}
  virtual void OnClosed(CloseReason reason, std::string_view detail) = 0;

 protected:
  ~StreamEvents() = default;
};

enum class ResetCode : uint8_t { kCancel, kRefused, kInternal, kProtocolError, kNoError };

class Stream {
 public:
  // Not owned. Without events, what arrives is dropped. May be changed at any time.
  virtual void SetEvents(StreamEvents* events) = 0;
  // Copies the bytes. Watch Overfull() and stop the source while it is true.
  virtual void SendData(std::string_view data, bool end) = 0;
  virtual void SendTrailers(const HeaderList& trailers) = 0;
  // Ends it in both directions; the peer sees an error unless all was sent. The reference is dead.
  // HTTP/1 closes the connection when the message had begun.
  virtual void Reset(ResetCode code) = 0;
  // While paused, no more flow-control credit is given: at most one window (HTTP/2) still comes.
  virtual void PauseReading(bool pause) = 0;
  virtual size_t buffered() const = 0;  // bytes given to SendData and not yet on the transport
  virtual bool Overfull() const = 0;    // over the high mark; OnWritable will follow
  virtual Version version() const = 0;
  virtual uint64_t id() const = 0;  // unique on its connection

 protected:
  ~Stream() = default;
};

class ServerStream : public Stream {
 public:
  virtual void SendInformational(int status, const HeaderList& headers) = 0;  // 100, 103
  // Once. Framing headers (content-length is kept, transfer-encoding and connection are not) are
  // the codec's.
  virtual void SendResponse(const ResponseHead& head, bool end) = 0;

 protected:
  ~ServerStream() = default;
};

struct Options {
  size_t max_header_bytes = 60 * 1024;  // Envoy: max_request_headers_kb 60
  size_t max_headers = 100;             // Envoy: common_http_protocol_options.max_headers_count
  size_t high_watermark = 256 * 1024;   // per stream, bytes waiting to be sent
  size_t low_watermark = 128 * 1024;
  // Server: from the first byte of a request to the end of its head. 0 = none.
  std::chrono::milliseconds header_timeout{10000};
  // Without any stream. 0 = none. Server default as Envoy's (1 h).
  std::chrono::milliseconds idle_timeout{3600000};

  // HTTP/1
  uint32_t max_requests = 0;  // requests on one connection, then close. 0 = any number
  // HTTP/2
  uint32_t max_concurrent_streams = 100;  // server: what the peer may open
  uint32_t stream_window = 256 * 1024;
  uint32_t connection_window = 1024 * 1024;
  uint32_t max_frame_size = 16384;
  // A burst of resets by the peer and a steady rate per second; over it the connection is closed
  // (CVE-2023-44487).
  uint64_t reset_burst = 1000;
  uint64_t reset_rate = 33;
  // PING keepalive; 0 = none. After `ping_timeout` without an answer the connection is lost.
  std::chrono::milliseconds ping_interval{0};
  std::chrono::milliseconds ping_timeout{10000};
  // Also while other bytes arrive, which alone say that the peer lives: for who has to know since
  // when it was not heard (ClientEvents::OnPingAnswered).
  bool ping_while_busy = false;
};

class Connection : public event::Deferred {
 public:
  // No new streams are accepted or opened; those that run finish; then the connection closes
  // (HTTP/2: GOAWAY; HTTP/1: Connection: close).
  virtual void Drain() = 0;
  // Closes at once; streams get kConnectionLost, then OnConnectionClosed, from the loop.
  virtual void Close(std::string_view why) = 0;
  virtual size_t active_streams() const = 0;
  virtual Version version() const = 0;
  virtual net::Transport& transport() = 0;
};

class ServerConnection;
class ServerEvents {
 public:
  // A request's head is complete. Answer through the stream, now or later.
  virtual void OnRequest(ServerStream& stream, RequestHead head, bool end) = 0;
  // Last event; hand the connection to DeferDelete. `clean` is false after a protocol error, a
  // limit or our own Close(); a peer that leaves, in order or not, is clean. `detail` says what it
  // was, for a counter and the log.
  virtual void OnConnectionClosed(ServerConnection& connection, bool clean,
                                  std::string_view detail) = 0;

 protected:
  ~ServerEvents() = default;
};

class ServerConnection : public Connection {};

class ClientConnection;
class ClientEvents {
 public:
  // CanOpen() may have become true again (a stream ended, the peer raised its limit).
  virtual void OnCapacity(ClientConnection&) {}
  // HTTP/2: the answer to the PING that was sent at `sent` has come.
  virtual void OnPingAnswered(ClientConnection&, event::TimePoint /*sent*/) {}
  // HTTP/2: the peer ends the connection because it got too many of our frames (GOAWAY
  // ENHANCE_YOUR_CALM), of which PINGs are what gRPC servers count.
  virtual void OnCalmDown(ClientConnection&) {}
  virtual void OnConnectionClosed(ClientConnection& connection, bool clean,
                                  std::string_view detail) = 0;

 protected:
  ~ClientEvents() = default;
};

class ClientConnection : public Connection {
 public:
  // nullptr when CanOpen() is false.
  virtual Stream* Open(const RequestHead& head, bool end, StreamEvents* events) = 0;
  // HTTP/1: idle and reusable. HTTP/2: below the peer's stream limit, no GOAWAY.
  virtual bool CanOpen() const = 0;
  // Will never open again (GOAWAY, Connection: close, closed, drained): take it out of the pool.
  virtual bool Finished() const = 0;
};

using ServerConnectionPtr = std::unique_ptr<ServerConnection>;
using ClientConnectionPtr = std::unique_ptr<ClientConnection>;

// `initial` are bytes already read from the transport. `events` is not owned and outlives it.
ServerConnectionPtr MakeHttp1Server(net::TransportPtr transport, ServerEvents* events,
                                    const Options& options, std::string initial = {});
ServerConnectionPtr MakeHttp2Server(net::TransportPtr transport, ServerEvents* events,
                                    const Options& options, std::string initial = {});
// Looks at the first bytes: the HTTP/2 connection preface, or else HTTP/1.
ServerConnectionPtr MakeAutoServer(net::TransportPtr transport, ServerEvents* events,
                                   const Options& options);
ClientConnectionPtr MakeHttp1Client(net::TransportPtr transport, ClientEvents* events,
                                    const Options& options);
// Prior knowledge: sends the connection preface at once.
ClientConnectionPtr MakeHttp2Client(net::TransportPtr transport, ClientEvents* events,
                                    const Options& options);

enum class Detected : uint8_t { kMore, kHttp1, kHttp2, kOther };
// What a connection's first bytes are: kMore while they are a strict prefix of the HTTP/2 preface
// or of a possible method; kHttp1 when a request line's method and space are there; else kOther.
Detected DetectProtocol(std::string_view first_bytes);

}  // namespace qanat::http
