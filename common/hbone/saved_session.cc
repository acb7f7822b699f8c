// SPDX-License-Identifier: Apache-2.0
#include "common/hbone/saved_session.h"

#include <algorithm>

#include "common/takeover/fields.h"

namespace qanat::hbone {
namespace {

using takeover::Fields;
using takeover::FieldWriter;
using takeover::kCritical;

// Never changed, never used again. Several numbers in one field are 8 bytes each, in this order.
enum Tag : uint16_t {
  kServer = 1,
  kOptions = 2,
  kPeer = 3,
  kConnection = 4,
  kHpack = 5,  // started, the table's limit
  kHpackEntry = 6,
  kFrame = 7,       // left, padding, wants its padding's length, data seen, discarded
  kFrameBytes = 8,  // header, or all so far
  kResets = 9,      // next, ids
  kWriting = 10,    // next writer, paid updates, growth left, shed
  kRtt = 11,        // rtt, ping, waited, waiting
  kKeepalive = 12,  // sent, waiting, drain
  kPatience = 13,   // resets, busywork
  kMessage = 14,
  kUnsent = 15,
  kStream = 16,   // fields of its own
  kStreams = 17,  // how many
  kPeerEarly = 18,
  kHpackAllowed = 19,  // the size that the peer knows of, an update owed, the announced size
};
constexpr uint16_t kKnown[] = {kServer,     kOptions,   kPeer,       kConnection,  kHpack,
                               kHpackEntry, kFrame,     kFrameBytes, kResets,      kWriting,
                               kRtt,        kKeepalive, kPatience,   kMessage,     kUnsent,
                               kStream,     kStreams,   kPeerEarly,  kHpackAllowed};
enum StreamTag : uint16_t { kState = 1, kEnd = 2, kError = 3, kInput = 4, kMoved = 5 };
constexpr uint16_t kKnownOfStream[] = {kState, kEnd, kError, kInput, kMoved};

constexpr size_t kMostStreams = 65536;

std::string Numbers(std::initializer_list<uint64_t> numbers) {
  std::string out;
  for (const uint64_t number : numbers) {
    for (int shift = 56; shift >= 0; shift -= 8) {
      out.push_back(static_cast<char>(number >> shift & 0xff));
    }
  }
  return out;
}

// Reads them again; `good` falls when there are too few, or one is larger than it may be. More than
// were read are another version's, which may matter: where the field is critical, `whole` is asked.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}
  uint64_t Next(uint64_t most = ~uint64_t{0}) {
    uint64_t out = 0;
    if (bytes_.size() < 8) {
      good_ = false;
      return 0;
    }
    for (int i = 0; i < 8; ++i)
      out = out << 8 | static_cast<uint8_t>(bytes_[static_cast<size_t>(i)]);
    bytes_.remove_prefix(8);
    if (out > most) good_ = false;
    return out > most ? 0 : out;
  }
  uint32_t Next32(uint32_t most = 0xffffffff) { return static_cast<uint32_t>(Next(most)); }
  bool Flag() { return Next(1) == 1; }
  // Windows may be below zero (RFC 9113 6.9.2).
  int64_t Window() {
    const uint64_t moved = Next(uint64_t{2} * kMaxWindow + 1);
    return static_cast<int64_t>(moved) - kMaxWindow - 1;
  }
  bool more() const { return !bytes_.empty(); }
  bool good() const { return good_; }
  bool whole() const { return good_ && !more(); }

 private:
  std::string_view bytes_;
  bool good_ = true;
};

uint64_t OfWindow(int64_t window) { return static_cast<uint64_t>(window + kMaxWindow + 1); }

std::string_view Text(const std::vector<uint8_t>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

WipedString EncodeStream(const SavedStream& from) {
  const StreamState& state = from.state;
  FieldWriter writer;
  writer.Bytes(kState | kCritical,
               Numbers({state.id, OfWindow(state.send_window), OfWindow(state.recv_window),
                        state.recv_unacked, state.window, state.local_ended, state.remote_ended}));
  writer.Bytes(kEnd | kCritical, Numbers({static_cast<uint64_t>(from.end), from.write_broken,
                                          from.discard.has_value(), from.discard.value_or(0)}));
  writer.Bytes(kError, from.error);
  writer.Bytes(kInput | kCritical, Text(from.input));
  writer.Number(kMoved, from.moved);
  return writer.Take();
}

Result<SavedStream> DecodeStream(std::string_view bytes) {
  QANAT_ASSIGN_OR_RETURN(const Fields fields, Fields::Parse(bytes, kKnownOfStream));
  SavedStream out;
  StreamState& state = out.state;
  Reader reader(fields.Bytes(kState));
  state.id = reader.Next32(kMaxStreamId);
  state.send_window = reader.Window();
  state.recv_window = reader.Window();
  state.recv_unacked = reader.Next32(kMaxWindow);
  state.window = reader.Next32(kMaxWindow);
  state.local_ended = reader.Flag();
  state.remote_ended = reader.Flag();
  state.answered = true;
  Reader end(fields.Bytes(kEnd));
  out.end = static_cast<net::IoResult::Kind>(
      end.Next(static_cast<uint64_t>(net::IoResult::Kind::kError)));
  out.write_broken = end.Flag();
  const bool discards = end.Flag();
  const uint64_t left = end.Next();
  if (discards) out.discard = left;
  out.error = fields.Bytes(kError);
  const std::string_view input = fields.Bytes(kInput);
  out.input.assign(input.begin(), input.end());
  out.moved = fields.Number(kMoved);
  if (!reader.whole() || !end.whole() || !fields.Has(kInput) ||
      out.end == net::IoResult::Kind::kOk || state.id % 2 == 0 || input.size() > kMaxWindow) {
    return Fail(Code::kInvalidArgument, "a stream that cannot be");
  }
  return out;
}

Status ReadOptions(Reader reader, SavedSession& out) {
  SessionOptions& options = out.options;
  options.initial_stream_window = reader.Next32(kMaxWindow);
  options.stream_window = reader.Next32(kMaxWindow);
  options.connection_window = reader.Next32(kMaxWindow);
  options.max_frame_size = reader.Next32(0xffffff);
  options.max_header_list = reader.Next32();
  options.max_concurrent_streams = reader.Next32();
  if (!reader.whole() || options.initial_stream_window == 0 ||
      options.initial_stream_window > options.stream_window ||
      options.connection_window < kDefaultWindow || options.max_frame_size < kDefaultFrameSize ||
      options.max_header_list == 0) {
    return Fail(Code::kInvalidArgument, "settings that cannot be");
  }
  return {};
}

Status ReadPeer(Reader reader, SavedSession& out) {
  Settings& peer = out.state.peer;
  peer.header_table_size = reader.Next32();
  peer.enable_push = reader.Next32(1);
  peer.max_concurrent_streams = reader.Next32();
  peer.initial_window = reader.Next32(kMaxWindow);
  peer.max_frame_size = reader.Next32(0xffffff);
  peer.max_header_list = reader.Next32();
  peer.takes_source = reader.Flag();
  if (reader.whole() && peer.max_frame_size >= kDefaultFrameSize) return {};
  return Fail(Code::kInvalidArgument, "settings of the peer that cannot be");
}

Status ReadConnection(Reader reader, SavedSession& out) {
  ConnectionState& state = out.state;
  state.send_window = reader.Window();
  state.recv_window = reader.Window();
  state.recv_unacked = reader.Next32(kMaxWindow);
  state.next_stream = reader.Next32(kMaxStreamId);
  state.last_peer_stream = reader.Next32(kMaxStreamId);
  state.drain_wanted = reader.Flag();
  state.goaway_sent = reader.Flag();
  state.goaway_seen = reader.Flag();
  state.settings_unacked = reader.Next32(2);
  state.first_window = reader.Next32(out.options.initial_stream_window);
  state.taken_back = reader.Next32(out.options.initial_stream_window);
  state.settings_seen = true;
  const uint32_t less = out.options.initial_stream_window - state.first_window;
  if (!reader.whole() || state.first_window == 0 || state.recv_window < 0 ||
      state.next_stream % 2 == 0 || state.recv_window + state.recv_unacked > kMaxWindow ||
      (state.taken_back != 0 && (state.taken_back != less || state.settings_unacked == 0))) {
    return Fail(Code::kInvalidArgument, "a session that cannot be");
  }
  return {};
}

Status ReadTable(const Fields& fields, SavedSession& out) {
  Reader reader(fields.Bytes(kHpack));
  out.encoder_started = reader.Flag();
  out.table.limit = reader.Next32(HpackTable::kMostBytes);
  size_t size = 0;
  for (const std::string_view entry : fields.All(kHpackEntry)) {
    const size_t name = entry.size() < 2
                            ? entry.size()
                            : static_cast<uint8_t>(entry[0]) << 8 | static_cast<uint8_t>(entry[1]);
    if (entry.size() < 2 + name) return Fail(Code::kInvalidArgument, "a header that is cut off");
    out.table.entries.push_back(
        {std::string(entry.substr(2, name)), std::string(entry.substr(2 + name))});
    size += entry.size() - 2 + 32;
  }
  // Who does not say it believes what the peer does: then an update is not asked for.
  Reader allowed(fields.Bytes(kHpackAllowed));
  if (fields.Has(kHpackAllowed)) {
    out.table.allowed = allowed.Next32(HpackTable::kMostBytes);
    out.table.update_owed = allowed.Flag();
    out.options.header_table = allowed.Next32(HpackTable::kMostBytes);
  }
  if (!reader.whole() || !allowed.good() || size > out.table.limit) {
    return Fail(Code::kInvalidArgument, "a header table that cannot be");
  }
  HpackDecoder probe(out.options.max_header_list);
  if (probe.Import(out.table)) return {};
  return Fail(Code::kInvalidArgument, "a header table that cannot be");
}

Status ReadStreams(const Fields& fields, SavedSession& out) {
  const std::vector<std::string_view> all = fields.All(kStream);
  if (all.size() > kMostStreams) return Fail(Code::kResourceExhausted, "too many streams");
  if (fields.Number(kStreams, kMostStreams + 1) != all.size()) {
    return Fail(Code::kInvalidArgument, "streams are missing");
  }
  uint32_t last = 0;
  uint64_t grown = out.growth_left;
  for (const std::string_view bytes : all) {
    QANAT_ASSIGN_OR_RETURN(SavedStream stream, DecodeStream(bytes));
    const uint32_t id = stream.state.id;
    const bool known = out.server ? id <= out.state.last_peer_stream : id < out.state.next_stream;
    if (id <= last || !known || stream.state.window < out.state.first_window) {
      return Fail(Code::kInvalidArgument, "a stream that cannot be");
    }
    last = id;
    grown += stream.state.window - out.state.first_window;
    out.streams.push_back(std::move(stream));
  }
  if (grown <= out.options.connection_window) return {};
  return Fail(Code::kInvalidArgument, "windows that cannot be");
}

}  // namespace

WipedString EncodeSession(const SavedSession& from) {
  FieldWriter writer;
  const SessionOptions& options = from.options;
  const ConnectionState& state = from.state;
  const Settings& peer = state.peer;
  writer.Number(kServer | kCritical, from.server ? 1 : 0);
  writer.Bytes(
      kOptions | kCritical,
      Numbers({options.initial_stream_window, options.stream_window, options.connection_window,
               options.max_frame_size, options.max_header_list, options.max_concurrent_streams}));
  writer.Bytes(
      kPeer | kCritical,
      Numbers({peer.header_table_size, peer.enable_push, peer.max_concurrent_streams,
               peer.initial_window, peer.max_frame_size, peer.max_header_list, peer.takes_source}));
  writer.Number(kPeerEarly, peer.takes_early ? 1 : 0);
  writer.Bytes(
      kConnection | kCritical,
      Numbers({OfWindow(state.send_window), OfWindow(state.recv_window), state.recv_unacked,
               state.next_stream, state.last_peer_stream, state.drain_wanted, state.goaway_sent,
               state.goaway_seen, state.settings_unacked, state.first_window, state.taken_back}));
  writer.Bytes(kHpack | kCritical, Numbers({from.encoder_started, from.table.limit}));
  writer.Bytes(kHpackAllowed,
               Numbers({from.table.allowed, from.table.update_owed, options.header_table}));
  for (const Header& entry : from.table.entries) {
    std::string bytes = {static_cast<char>(entry.name.size() >> 8),
                         static_cast<char>(entry.name.size())};
    writer.Bytes(kHpackEntry | kCritical, bytes + entry.name + entry.value);
  }
  writer.Bytes(kFrame | kCritical,
               Numbers({from.frame.left, from.frame.padding, from.frame.want_pad_length,
                        from.data_seen, from.discard_data}));
  writer.Bytes(kFrameBytes | kCritical, Text(from.frame.bytes));
  std::string resets = Numbers({from.recently_reset_next});
  for (const uint32_t id : from.recently_reset) resets += Numbers({id});
  writer.Bytes(kResets, resets);
  writer.Bytes(kWriting | kCritical,
               Numbers({from.next_writer, from.paid_updates, from.growth_left, from.shed}));
  writer.Bytes(kRtt | kCritical,
               Numbers({from.rtt_ns, from.rtt_ping, from.rtt_waited_ns, from.rtt_waiting}));
  writer.Bytes(kKeepalive | kCritical,
               Numbers({from.ping_sent, from.ping_waiting, from.drain_ping}));
  writer.Bytes(kPatience, Numbers({from.resets_left, from.busywork_left}));
  writer.Bytes(kMessage, from.close_message);
  writer.Bytes(kUnsent | kCritical, Text(from.unsent));
  writer.Number(kStreams | kCritical, from.streams.size());
  for (const SavedStream& stream : from.streams) {
    writer.Bytes(kStream | kCritical, EncodeStream(stream));
  }
  return writer.Take();
}

Result<SavedSession> DecodeSession(std::string_view bytes) {
  QANAT_ASSIGN_OR_RETURN(const Fields fields, Fields::Parse(bytes, kKnown));
  constexpr uint64_t kMostTime = uint64_t{3600} * 1000000000;
  constexpr uint64_t kMostPatience = 10000000;
  SavedSession out;
  // Of the others the readers notice.
  if (!fields.HasNumbers({kServer, kStreams}) || !fields.HasAll({kFrameBytes, kUnsent})) {
    return Fail(Code::kInvalidArgument, "a session that is not all there");
  }
  out.server = fields.Number(kServer) == 1;
  QANAT_RETURN_IF_ERROR(ReadOptions(Reader(fields.Bytes(kOptions)), out));
  QANAT_RETURN_IF_ERROR(ReadPeer(Reader(fields.Bytes(kPeer)), out));
  out.state.peer.takes_early = fields.Number(kPeerEarly) == 1;
  QANAT_RETURN_IF_ERROR(ReadConnection(Reader(fields.Bytes(kConnection)), out));
  QANAT_RETURN_IF_ERROR(ReadTable(fields, out));
  Reader frame(fields.Bytes(kFrame));
  out.frame.left = frame.Next32(0xffffff);
  out.frame.padding = frame.Next32(0xffffff);
  out.frame.want_pad_length = frame.Flag();
  out.data_seen = frame.Next32(0xffffff);
  out.discard_data = frame.Flag();
  const std::string_view frame_bytes = fields.Bytes(kFrameBytes);
  out.frame.bytes.assign(frame_bytes.begin(), frame_bytes.end());
  if (!frame.whole() || !FrameReader::Possible(out.frame, out.options.max_frame_size)) {
    return Fail(Code::kInvalidArgument, "a frame that cannot be");
  }
  if (fields.Has(kResets)) {
    Reader resets(fields.Bytes(kResets));
    out.recently_reset_next = resets.Next();
    while (resets.more() && resets.good()) out.recently_reset.push_back(resets.Next32());
    if (!resets.good() || out.recently_reset.size() > 64) {
      return Fail(Code::kInvalidArgument, "streams that cannot have been");
    }
  }
  Reader writing(fields.Bytes(kWriting));
  out.next_writer = writing.Next32(kMaxStreamId);
  out.paid_updates = writing.Next32(65536);
  out.growth_left = writing.Next(kMaxWindow);
  out.shed = writing.Next();
  Reader rtt(fields.Bytes(kRtt));
  out.rtt_ns = rtt.Next(kMostTime);
  out.rtt_ping = rtt.Next(0xffffffffffff);
  out.rtt_waited_ns = rtt.Next(kMostTime);
  out.rtt_waiting = rtt.Flag();
  Reader ping(fields.Bytes(kKeepalive));
  out.ping_sent = ping.Next(0xffffffffffff);
  out.ping_waiting = ping.Flag();
  out.drain_ping = ping.Flag();
  Reader patience(fields.Bytes(kPatience));
  if (fields.Has(kPatience)) {
    out.resets_left = patience.Next(kMostPatience);
    out.busywork_left = patience.Next(kMostPatience);
  }
  if (!writing.whole() || !rtt.whole() || !ping.whole() || !patience.good()) {
    return Fail(Code::kInvalidArgument, "a session that cannot be");
  }
  out.close_message = fields.Bytes(kMessage);
  const std::string_view unsent = fields.Bytes(kUnsent);
  out.unsent.assign(unsent.begin(), unsent.end());
  QANAT_RETURN_IF_ERROR(ReadStreams(fields, out));
  return out;
}

}  // namespace qanat::hbone
