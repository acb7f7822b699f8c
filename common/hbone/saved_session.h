// SPDX-License-Identifier: Apache-2.0
// A tunnel's HTTP/2 session that stands still, as a value: all that both ends have agreed on, what
// waits in either direction, and how much patience with the peer is left. Another process, or this
// one again, goes on with it as if nothing had been. What is measured anew in a moment (rates) is
// not in it. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/base/wiped_string.h"
#include "common/hbone/frame.h"
#include "common/hbone/hpack.h"
#include "common/hbone/types.h"
#include "common/net/transport.h"

namespace qanat::hbone {

// What HTTP/2 knows of a stream.
struct StreamState {
  uint32_t id = 0;
  uint32_t recv_unacked = 0;  // consumed, not yet given back with WINDOW_UPDATE
  int64_t send_window = 0;    // what we may still send
  int64_t recv_window = 0;    // what the peer may still send
  uint32_t window = 0;        // the size of our window: unread + recv_unacked + recv_window
  bool local_ended = false;   // END_STREAM or RST_STREAM went out
  bool remote_ended = false;  // END_STREAM or RST_STREAM came in
  bool answered = false;      // response headers were sent (server) or received (client)
  bool operator==(const StreamState&) const = default;
};

// What HTTP/2 knows of the connection (besides its streams and the peer's HPACK table).
struct ConnectionState {
  Settings peer;
  int64_t send_window = kDefaultWindow;
  int64_t recv_window = 0;
  uint32_t recv_unacked = 0;
  uint32_t settings_unacked = 1;  // of ours, on their way
  uint32_t first_window = 0;      // of a new stream, as the last of them says
  uint32_t taken_back = 0;        // by them of every stream's window, and the peer may not know yet
  uint32_t next_stream = 1;       // client: the next id of ours
  uint32_t last_peer_stream = 0;  // server: the highest id seen
  bool settings_seen = false;
  bool drain_wanted = false;  // we want no new streams
  bool goaway_sent = false;   // the final one
  bool goaway_seen = false;
  bool operator==(const ConnectionState&) const = default;
};

// Answered, and held by its user.
struct SavedStream {
  StreamState state;
  net::IoResult::Kind end = net::IoResult::Kind::kWouldBlock;
  bool write_broken = false;
  std::optional<uint64_t> discard;
  std::string error;
  std::vector<uint8_t> input;  // received and not read
  uint64_t moved = 0;
  bool operator==(const SavedStream&) const = default;
};

struct SavedSession {
  bool server = false;
  SessionOptions options;  // as announced; times count for nothing
  ConnectionState state;
  bool encoder_started = false;
  HpackTable table;
  // A frame that came in part: as bytes to be read again, unless its payload was used already.
  FrameReader::State frame;
  uint32_t data_seen = 0;     // of that frame, if it is DATA
  bool discard_data = false;  // "
  std::vector<uint32_t> recently_reset;
  uint64_t recently_reset_next = 0;
  uint32_t next_writer = 0;
  uint32_t paid_updates = 0;
  uint64_t growth_left = 0;
  uint64_t shed = 0;
  uint64_t rtt_ns = 0, rtt_ping = 0, rtt_waited_ns = 0;
  bool rtt_waiting = false;
  uint64_t ping_sent = 0;
  bool ping_waiting = false, drain_ping = false;
  uint64_t resets_left = 0, busywork_left = 0;  // in thousandths
  std::string close_message;
  std::vector<uint8_t> unsent;
  std::vector<SavedStream> streams;  // by id
};

// What is decoded can be gone on with: it makes sense in itself.
WipedString EncodeSession(const SavedSession& from);
Result<SavedSession> DecodeSession(std::string_view bytes);

}  // namespace qanat::hbone
