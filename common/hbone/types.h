// SPDX-License-Identifier: Apache-2.0
// What HBONE sessions of both sides share: header lists, limits, and why a session ended.
// HBONE is HTTP/2 over mTLS with plain CONNECT only; each stream is one TCP connection.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace qanat::hbone {

inline constexpr uint16_t kPort = 15008;

struct Header {
  std::string name;  // lower case
  std::string value;
  bool operator==(const Header&) const = default;
};
using Headers = std::vector<Header>;

// "10.0.0.1:40000": whose stream it is, on a tunnel that several pods of one identity share. Sent
// only to peers of our own kind that announced to take it (SETTINGS), and believed by nobody else.
inline constexpr std::string_view kSourceHeader = "x-qanat-source";
// How such a peer refuses a source; the stream is welcome on the source's own tunnel (RFC 9110
// 15.5.20).
inline constexpr int kMisdirected = 421;

// How many of a stream's first bytes may go before its answer, to peers of our own kind that
// announced to take them (SETTINGS).
inline constexpr size_t kMostEarly = 4096;

// The first value of that name, "" when absent.
std::string_view Find(const Headers& headers, std::string_view name);

// Defaults: stock ztunnel's (HTTP2_STREAM_WINDOW_SIZE, _CONNECTION_WINDOW_SIZE, _FRAME_SIZE and the
// constants of its client and server builders).
struct SessionOptions {
  // A stream's window begins at the first and grows up to the second while its user reads faster
  // than the window lets the peer send (core_flow.cc). More than the second: it does not grow. 0: a
  // server's is the small one; a client's has its whole size, because some servers (Envoy 1.40,
  // read there: "deferred reset") drop what is beyond the window when their application ends first.
  // When much waits unread in the tunnel (a quarter of max_unread), windows are taken back to the
  // small.
  uint32_t initial_stream_window = 0;
  uint32_t stream_window = 4u << 20;
  uint32_t small_stream_window = 256u << 10;
  // Bytes on their way; given back at receipt, so that no stream waits for the reader of another.
  // Also how much all streams' windows together may grow.
  uint32_t connection_window = 16u << 20;
  // Received and not read by anybody, over all streams: above it the stream with most is reset.
  size_t max_unread = 64u << 20;
  uint32_t max_frame_size = 1u << 20;
  uint32_t max_header_list = 0;  // 0: 16 KiB as client, 64 KiB as server
  // What the peer may have us remember of its headers (HPACK): those of tunnels are seldom the same
  // twice. Stock says nothing, which means 4096; more than that is not announced.
  uint32_t header_table = 0;
  uint32_t max_concurrent_streams = 200;  // announced by a server
  bool takes_source = false;              // the same: each stream's source is checked and believed
  bool takes_early = false;               // the same: a stream's first bytes may precede its answer
  // How long a stream's end, or the answer to one whose first bytes are here, may wait for more
  // that goes the same way, where that lately came (patience.h). 0: never. At most a few
  // milliseconds.
  std::chrono::microseconds patience{0};
  // Plaintext that may wait in the session when the transport is full; then streams block.
  size_t send_buffer = 256u << 10;
  std::chrono::milliseconds ping_interval{10000};  // 0: no keepalive
  std::chrono::milliseconds ping_timeout{20000};
  // Until the peer's first SETTINGS, and from the start of a header block to its end.
  std::chrono::milliseconds preface_timeout{10000};
};

// HTTP/2 error codes (RFC 9113 section 7).
enum class H2Error : uint32_t {
  kNoError = 0,
  kProtocolError = 1,
  kInternalError = 2,
  kFlowControlError = 3,
  kSettingsTimeout = 4,
  kStreamClosed = 5,
  kFrameSizeError = 6,
  kRefusedStream = 7,
  kCancel = 8,
  kCompressionError = 9,
  kConnectError = 10,
  kEnhanceYourCalm = 11,
  kInadequateSecurity = 12,
  kHttp11Required = 13,
};
std::string_view H2ErrorName(uint32_t code);

// What a peer did that an honest one does not do, when a session was ended for it. One test each:
// abuse_test.cc.
enum class Abuse : uint8_t {
  kNone,
  kRapidReset,     // streams opened and reset, or made us reset them, faster than work is done
  kRequestFlood,   // refused or malformed requests without end
  kHeaderFlood,    // a header block without end (CONTINUATION)
  kHeaderBomb,     // a small block that unpacks to a large list
  kSettingsFlood,  //
  kPingFlood,      //
  kUselessFrames,  // empty DATA, PRIORITY, unknown types, frames for streams that are over
  kWindowGames,    // windows exceeded, overflowed, or opened by a few bytes at a time
  kSlowPeer,       // no preface, half a header block, or our answers are not read
};
inline constexpr size_t kAbuseKinds = 10;
std::string_view AbuseName(Abuse abuse);  // "rapid_reset", a label of metrics

// How a session ended, for logs and metrics. Empty message: in order.
struct CloseReason {
  H2Error code = H2Error::kNoError;
  bool by_peer = false;
  std::string message;
  Abuse abuse = Abuse::kNone;
  // Neither in order nor our own wish: framing, a GOAWAY with an error, silence, a broken tunnel.
  bool failed = false;
};

// What a session holds at present, and did.
struct SessionStats {
  size_t unread = 0;                 // bytes received and not read by their streams' users
  size_t window_growth = 0;          // what streams' windows are larger than at their beginning
  uint64_t shed = 0;                 // streams reset because too much was unread
  std::chrono::microseconds rtt{0};  // of the tunnel; 0: not measured yet
};

}  // namespace qanat::hbone
