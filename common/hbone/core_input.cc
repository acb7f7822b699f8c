// SPDX-License-Identifier: Apache-2.0
// What the peer sends: frames checked against the state of the session and its streams. Every error
// has the code that RFC 9113 asks for; what costs us without being of use is counted.
#include <algorithm>
#include <charconv>

#include "common/hbone/core.h"

namespace qanat::hbone {

using net::IoResult;

namespace {

constexpr unsigned kMaxBlockFrames = 32;
constexpr size_t kBlockSlack = 16384;  // a compressed block is rarely larger than the list
constexpr uint32_t kMaxGoaway = 16384;
constexpr uint32_t kMaxSettings = 6 * 64;
constexpr uint64_t kDrainPing = ~uint64_t{0};

}  // namespace

H2Error Core::Because(H2Error code, std::string why) {
  why_ = std::move(why);
  return code;
}

bool Core::Busywork() { return busywork_.Take(loop_.now()); }

H2Error Core::OnFrameStart(const FrameHeader& header) {
  if (!state_.settings_seen && (header.type != kSettings || header.has(kFlagAck))) {
    return Because(H2Error::kProtocolError, "the first frame was not SETTINGS");
  }
  if (header.length > options_.max_frame_size) {
    return Because(H2Error::kFrameSizeError, "a frame is larger than announced");
  }
  if (block_stream_ != 0 && (header.type != kContinuation || header.stream != block_stream_)) {
    return Because(H2Error::kProtocolError, "another frame inside a header block");
  }
  bool on_stream = header.stream != 0;
  auto expect = [&](bool stream, uint32_t length) {
    if (stream != on_stream) {
      return Because(H2Error::kProtocolError, "a frame on the wrong kind of stream");
    }
    if (header.length != length) {
      return Because(H2Error::kFrameSizeError, "a frame of the wrong length");
    }
    return H2Error::kNoError;
  };
  switch (header.type) {
    case kData: return StartData(header);
    case kHeaders:
    case kContinuation: return StartHeaders(header);
    case kPriority:
      if (!Busywork()) return Because(H2Error::kEnhanceYourCalm, "too many PRIORITY frames");
      return expect(true, 5);
    case kRstStream: return expect(true, 4);
    case kSettings:
      if (on_stream) return Because(H2Error::kProtocolError, "SETTINGS on a stream");
      if (header.has(kFlagAck)) {
        if (!Busywork()) return Because(H2Error::kEnhanceYourCalm, "too many SETTINGS");
        return expect(false, 0);
      }
      if (header.length % 6 != 0) return H2Error::kFrameSizeError;
      if (header.length > kMaxSettings || !Busywork()) {
        return Because(H2Error::kEnhanceYourCalm, "too many SETTINGS");
      }
      return H2Error::kNoError;
    case kPushPromise: return Because(H2Error::kProtocolError, "PUSH_PROMISE is disabled");
    case kPing:
      if (!Busywork()) return Because(H2Error::kEnhanceYourCalm, "too many PINGs");
      return expect(false, 8);
    case kGoaway:
      if (on_stream) return Because(H2Error::kProtocolError, "GOAWAY on a stream");
      if (header.length < 8) return H2Error::kFrameSizeError;
      if (header.length > kMaxGoaway) return H2Error::kEnhanceYourCalm;
      return H2Error::kNoError;
    case kWindowUpdate: return header.length == 4 ? H2Error::kNoError : H2Error::kFrameSizeError;
    default:
      // Unknown types are skipped (RFC 9113 5.5), within reason.
      if (!Busywork()) return Because(H2Error::kEnhanceYourCalm, "too many unknown frames");
      return H2Error::kNoError;
  }
}

H2Error Core::OnFrameEnd(const FrameHeader& header, std::span<const uint8_t> payload) {
  switch (header.type) {
    case kData: return EndData(header);
    case kHeaders:
    case kContinuation: return EndHeaders(header, payload);
    case kRstStream: return ResetFrame(header.stream, Read32(payload.data()));
    case kSettings: return SettingsFrame(header, payload);
    case kPing: return PingFrame(header, payload);
    case kGoaway: return GoawayFrame(payload);
    case kWindowUpdate: return WindowFrame(header.stream, Read32(payload.data()) & kMaxStreamId);
    default: return H2Error::kNoError;
  }
}

// ---- DATA ----

// Is this a stream that never was?
static bool Idle(Core::Side side, uint32_t id, const ConnectionState& state) {
  bool odd = id % 2 == 1;
  if (side == Core::Side::kServer) return !odd || id > state.last_peer_stream;
  return !odd || id >= state.next_stream;
}

H2Error Core::StartData(const FrameHeader& header) {
  if (header.stream == 0 || Idle(side_, header.stream, state_)) {
    return Because(H2Error::kProtocolError, "DATA on a stream that was never opened");
  }
  auto length = static_cast<int64_t>(header.length);
  if (length > state_.recv_window) {
    return Because(H2Error::kFlowControlError, "DATA beyond the connection's window");
  }
  state_.recv_window -= length;
  if (header.length == 0 && !header.has(kFlagEndStream) && !Busywork()) {
    return Because(H2Error::kEnhanceYourCalm, "too many empty DATA frames");
  }
  std::shared_ptr<Stream> stream = Lookup(header.stream);
  discard_data_ = true;
  if (!stream || stream->state.remote_ended) {
    // Credit returns at once, the bytes go nowhere. After our RST_STREAM they are no error.
    Stream gone;
    gone.state.remote_ended = true;
    Consumed(gone, header.length);
    if (!RecentlyReset(header.stream)) {
      if (!Busywork()) return Because(H2Error::kEnhanceYourCalm, "DATA for closed streams");
      if (stream && !stream->retired) {
        ResetStream(*stream, H2Error::kStreamClosed);
      } else {
        PutRstStream(out_, header.stream, H2Error::kStreamClosed);
        RememberReset(header.stream);
        FlushSoon();
      }
    }
    return H2Error::kNoError;
  }
  if (side_ == Side::kClient && !stream->state.answered) {
    return Because(H2Error::kProtocolError, "DATA before the response");
  }
  if (length > stream->state.recv_window) {
    stream->error = "the peer sent more than the stream's window";
    Stream gone;
    gone.state.remote_ended = true;
    Consumed(gone, header.length);
    ResetStream(*stream, H2Error::kFlowControlError);
    return H2Error::kNoError;
  }
  stream->state.recv_window -= length;
  discard_data_ = false;
  data_seen_ = 0;
  return H2Error::kNoError;
}

H2Error Core::OnData(const FrameHeader& header, std::span<const uint8_t> piece) {
  if (discard_data_) return H2Error::kNoError;
  data_seen_ += static_cast<uint32_t>(piece.size());
  std::shared_ptr<Stream> stream = Lookup(header.stream);
  if (!stream || stream->state.remote_ended) {
    // Reset by its user between two pieces of one frame.
    Stream gone;
    gone.state.remote_ended = true;
    Consumed(gone, piece.size());
    return H2Error::kNoError;
  }
  if (stream->views.empty()) touched_.push_back(stream);
  stream->views.push_back(piece);
  stream->unread += piece.size();
  return H2Error::kNoError;
}

H2Error Core::EndData(const FrameHeader& header) {
  if (discard_data_) return H2Error::kNoError;
  std::shared_ptr<Stream> stream = Lookup(header.stream);
  Stream gone;
  gone.state.remote_ended = true;
  // Padding counts in the windows but is nobody's to read.
  if (header.length > data_seen_) Consumed(stream ? *stream : gone, header.length - data_seen_);
  if (stream && header.has(kFlagEndStream) && !stream->state.remote_ended) RemoteEnded(*stream);
  return H2Error::kNoError;
}

void Core::RemoteEnded(Stream& stream) {
  stream.state.remote_ended = true;
  Kick(stream);
  Retire(stream);
}

// ---- HEADERS ----

H2Error Core::StartHeaders(const FrameHeader& header) {
  if (header.stream == 0) return Because(H2Error::kProtocolError, "HEADERS on stream 0");
  if (header.type == kContinuation && block_stream_ == 0) {
    return Because(H2Error::kProtocolError, "CONTINUATION without HEADERS");
  }
  if (header.type == kHeaders) {
    if (header.stream % 2 == 0 || (side_ == Side::kClient && header.stream >= state_.next_stream)) {
      return Because(H2Error::kProtocolError, "HEADERS on a stream that was never opened");
    }
    block_frames_ = 0;
  }
  if (++block_frames_ > kMaxBlockFrames ||
      block_.size() + header.length > max_header_list_ + kBlockSlack) {
    return Because(H2Error::kEnhanceYourCalm, "a header block without end");
  }
  return H2Error::kNoError;
}

H2Error Core::EndHeaders(const FrameHeader& header, std::span<const uint8_t> payload) {
  if (header.type == kHeaders) {
    block_stream_ = header.stream;
    block_end_stream_ = header.has(kFlagEndStream);
    block_.clear();
  }
  block_.insert(block_.end(), payload.begin(), payload.end());
  if (!header.has(kFlagEndHeaders)) return H2Error::kNoError;
  block_stream_ = 0;
  H2Error error = HeaderBlock(header.stream, block_end_stream_);
  std::vector<uint8_t>().swap(block_);
  return error;
}

H2Error Core::HeaderBlock(uint32_t id, bool end_stream) {
  // Decoded whatever becomes of it: the table must stay in step.
  Headers headers;
  bool too_large = false;
  switch (decoder_.Decode(block_, headers)) {
    case HpackDecoder::Outcome::kOk: break;
    case HpackDecoder::Outcome::kTooLarge: too_large = true; break;
    case HpackDecoder::Outcome::kMalformed:
      return Because(H2Error::kCompressionError, "a header block cannot be decoded");
    case HpackDecoder::Outcome::kBomb:
      return Because(H2Error::kEnhanceYourCalm, "a header list far over the limit");
  }
  std::shared_ptr<Stream> stream = Lookup(id);
  if (!stream) {
    if (side_ == Side::kServer && id > state_.last_peer_stream) {
      if (state_.goaway_sent) return H2Error::kNoError;  // ours to ignore (RFC 9113 6.8)
      state_.last_peer_stream = id;
      return Request(id, std::move(headers), too_large, end_stream);
    }
    if (RecentlyReset(id) || side_ == Side::kClient) return H2Error::kNoError;
    return Because(H2Error::kStreamClosed, "HEADERS on a closed stream");
  }
  if (stream->retired) {
    if (RecentlyReset(id)) return H2Error::kNoError;
    return Because(H2Error::kStreamClosed, "HEADERS on a closed stream");
  }
  if (side_ == Side::kClient && !stream->state.answered) {
    if (too_large) {
      FailPending(*stream, {Code::kResourceExhausted, "the response's headers are too large", 0},
                  false);
      if (stream->core == this) ResetStream(*stream, H2Error::kProtocolError);
      return H2Error::kNoError;
    }
    return Response(*stream, std::move(headers), end_stream);
  }
  // Trailers: nothing in them is of interest, but they must be the end.
  if (stream->state.remote_ended) {
    ResetStream(*stream, H2Error::kStreamClosed);
  } else if (!end_stream) {
    stream->error = "the peer sent headers in the middle of a stream";
    ResetStream(*stream, H2Error::kProtocolError);
  } else {
    RemoteEnded(*stream);
  }
  return H2Error::kNoError;
}

namespace {

struct RequestHead {
  bool well_formed = true;
  std::string method, authority, scheme, path;
  bool extended = false;
  Headers rest;
};

RequestHead Sort(Headers headers) {
  RequestHead head;
  bool regular = false;
  auto pseudo = [&](std::string& into, std::string value) {
    if (!into.empty() || regular || value.empty()) head.well_formed = false;
    into = std::move(value);
  };
  for (Header& header : headers) {
    if (!ValidHeader(header)) head.well_formed = false;
    if (header.name.starts_with(':')) {
      if (header.name == ":method") {
        pseudo(head.method, std::move(header.value));
      } else if (header.name == ":authority") {
        pseudo(head.authority, std::move(header.value));
      } else if (header.name == ":scheme") {
        pseudo(head.scheme, std::move(header.value));
      } else if (header.name == ":path") {
        pseudo(head.path, std::move(header.value));
      } else if (header.name == ":protocol") {
        head.extended = true;
      } else {
        head.well_formed = false;
      }
      continue;
    }
    regular = true;
    if (ConnectionSpecific(header)) head.well_formed = false;
    head.rest.push_back(std::move(header));
  }
  if (head.method.empty()) head.well_formed = false;
  // RFC 9113 8.5: CONNECT has an authority and neither scheme nor path; all others have both.
  // (RFC 8441's :protocol was not announced, so it is just a wrong request.)
  bool connect = head.method == "CONNECT" && !head.extended;
  if (connect && (head.authority.empty() || !head.scheme.empty() || !head.path.empty())) {
    head.well_formed = false;
  }
  if (!connect && (head.scheme.empty() || head.path.empty())) head.well_formed = false;
  return head;
}

}  // namespace

H2Error Core::Request(uint32_t id, Headers headers, bool too_large, bool end_stream) {
  // Streams that ended but whose users have not let go yet count too, or they could pile up.
  if (active_ >= options_.max_concurrent_streams ||
      streams_.size() >= 2 * size_t{options_.max_concurrent_streams} + 16) {
    if (!Busywork()) return Because(H2Error::kEnhanceYourCalm, "too many streams");
    PutRstStream(out_, id, H2Error::kRefusedStream);
    RememberReset(id);
    FlushSoon();
    return H2Error::kNoError;
  }
  std::shared_ptr<Stream> stream = NewStream(id);
  stream->state.remote_ended = end_stream;
  if (too_large) {
    Reject(stream, 431, {});
    return H2Error::kNoError;
  }
  RequestHead head = Sort(std::move(headers));
  if (!head.well_formed) {
    if (!Busywork()) return Because(H2Error::kEnhanceYourCalm, "too many malformed requests");
    ResetStream(*stream, H2Error::kProtocolError);
    return H2Error::kNoError;
  }
  if (head.method != "CONNECT" || head.extended) {
    if (!Busywork()) return Because(H2Error::kEnhanceYourCalm, "too many requests but CONNECT");
    Reject(stream, 400, {});
    return H2Error::kNoError;
  }
  std::shared_ptr<Callbacks> callbacks = callbacks_;
  if (!callbacks->on_connect) {
    Reject(stream, 503, {});
    return H2Error::kNoError;
  }
  callbacks->on_connect({std::move(head.authority), std::move(head.rest)},
                        Responder(std::move(stream)));
  return H2Error::kNoError;
}

H2Error Core::Response(Stream& stream, Headers headers, bool end_stream) {
  std::shared_ptr<Stream> keep = Lookup(stream.state.id);
  int status = 0;
  bool valid = true;
  ConnectResponse response;
  for (Header& header : headers) {
    valid = valid && ValidHeader(header) && !ConnectionSpecific(header);
    if (header.name == ":status") {
      const char* end = header.value.data() + header.value.size();
      auto [stop, bad] = std::from_chars(header.value.data(), end, status);
      valid = valid && status >= 100 && status <= 999 && stop == end && bad == std::errc();
    } else if (header.name.starts_with(':')) {
      valid = false;
    } else {
      response.headers.push_back(std::move(header));
    }
  }
  if (!valid || status == 0 || status == 101 || (status < 200 && end_stream)) {
    FailPending(stream, {Code::kUnavailable, "the peer's response is malformed", 0}, false);
    if (keep->core == this) ResetStream(stream, H2Error::kProtocolError);
    return H2Error::kNoError;
  }
  if (status < 200) {  // informational; the answer follows
    return Busywork() ? H2Error::kNoError : H2Error::kEnhanceYourCalm;
  }
  stream.state.answered = true;
  response.status = status;
  auto done = std::exchange(stream.on_response, nullptr);
  if (status == 200) {
    response.stream = MakeHandle(keep);
    if (end_stream) RemoteEnded(stream);
  } else {
    if (end_stream) stream.state.remote_ended = true;
    // Nothing more is wanted in either direction.
    if (stream.state.remote_ended) {
      EndStream(stream);
    } else {
      ResetStream(stream, H2Error::kCancel);
    }
  }
  if (done) done(std::move(response));
  return H2Error::kNoError;
}

// ---- the rest ----

H2Error Core::SettingsFrame(const FrameHeader& header, std::span<const uint8_t> payload) {
  if (header.has(kFlagAck)) return H2Error::kNoError;
  int64_t before = state_.peer.initial_window;
  H2Error error = ApplySettings(payload, state_.peer);
  if (error != H2Error::kNoError) return Because(error, "a setting is out of range");
  int64_t delta = state_.peer.initial_window - before;
  if (delta != 0) {
    for (auto& [id, stream] : streams_) {
      stream->state.send_window += delta;
      if (stream->state.send_window > kMaxWindow) {
        return Because(H2Error::kFlowControlError, "a window grew over its limit");
      }
    }
    KickWriters();
  }
  if (!state_.settings_seen) {
    state_.settings_seen = true;
    if (!drain_ping_) ping_deadline_.Stop();
  }
  PutSettingsAck(out_);
  FlushSoon();
  change_pending_ = true;
  WakeSoon();
  return H2Error::kNoError;
}

H2Error Core::PingFrame(const FrameHeader& header, std::span<const uint8_t> payload) {
  uint64_t opaque = 0;
  std::copy(payload.begin(), payload.end(), reinterpret_cast<uint8_t*>(&opaque));
  if (!header.has(kFlagAck)) {
    PutPing(out_, opaque, true);
    FlushSoon();
    return H2Error::kNoError;
  }
  if (drain_ping_ && opaque == kDrainPing) {
    drain_ping_ = false;
    ping_deadline_.Stop();
    PutGoaway(out_, state_.last_peer_stream, H2Error::kNoError, "draining");
    state_.goaway_sent = true;
    FlushSoon();
    change_pending_ = true;
    WakeSoon();
  } else if (opaque == ping_sent_ && !drain_ping_) {
    ping_deadline_.Stop();
  }
  return H2Error::kNoError;
}

H2Error Core::GoawayFrame(std::span<const uint8_t> payload) {
  uint32_t last = Read32(payload.data()) & kMaxStreamId;
  uint32_t code = Read32(payload.data() + 4);
  state_.goaway_seen = true;
  std::string why = "the peer ended the tunnel (GOAWAY " + std::string(H2ErrorName(code));
  auto debug = payload.subspan(8, std::min<size_t>(payload.size() - 8, 128));
  if (!debug.empty()) why += ": ";
  for (uint8_t c : debug) why.push_back(c >= ' ' && c < 0x7f ? static_cast<char>(c) : '?');
  why += ")";
  if (code != static_cast<uint32_t>(H2Error::kNoError)) reason_.message = why;
  if (side_ == Side::kClient) {
    // Streams above the last one were certainly not processed.
    std::vector<std::shared_ptr<Stream>> refused;
    for (auto it = streams_.upper_bound(last); it != streams_.end(); ++it) {
      if (!it->second->retired) refused.push_back(it->second);
    }
    for (const auto& stream : refused) {
      if (stream->core != this) continue;
      stream->error = why;
      stream->write_broken = true;
      stream->end = IoResult::Kind::kReset;
      stream->state.local_ended = stream->state.remote_ended = true;
      Kick(*stream);
      Retire(*stream);
      FailPending(*stream, {Code::kUnavailable, why, 0}, true);
    }
  }
  change_pending_ = true;
  WakeSoon();
  return H2Error::kNoError;
}

H2Error Core::WindowFrame(uint32_t id, uint32_t increment) {
  if (id == 0) {
    if (increment == 0) return Because(H2Error::kProtocolError, "WINDOW_UPDATE of zero");
    state_.send_window += increment;
    if (state_.send_window > kMaxWindow) {
      return Because(H2Error::kFlowControlError, "the connection's window grew over its limit");
    }
    KickWriters();
    return H2Error::kNoError;
  }
  if (Idle(side_, id, state_)) {
    return Because(H2Error::kProtocolError, "WINDOW_UPDATE on a stream that was never opened");
  }
  std::shared_ptr<Stream> stream = Lookup(id);
  if (!stream || stream->retired) {
    return Busywork() ? H2Error::kNoError : H2Error::kEnhanceYourCalm;
  }
  if (increment == 0) {
    stream->error = "the peer sent a WINDOW_UPDATE of zero";
    FailPending(*stream, {Code::kUnavailable, stream->error, 0}, false);
    if (stream->core == this) ResetStream(*stream, H2Error::kProtocolError);
    return H2Error::kNoError;
  }
  stream->state.send_window += increment;
  if (stream->state.send_window > kMaxWindow) {
    stream->error = "the stream's window grew over its limit";
    FailPending(*stream, {Code::kUnavailable, stream->error, 0}, false);
    if (stream->core == this) ResetStream(*stream, H2Error::kFlowControlError);
    return H2Error::kNoError;
  }
  Kick(*stream);
  return H2Error::kNoError;
}

H2Error Core::ResetFrame(uint32_t id, uint32_t code) {
  if (Idle(side_, id, state_)) {
    return Because(H2Error::kProtocolError, "RST_STREAM on a stream that was never opened");
  }
  std::shared_ptr<Stream> stream = Lookup(id);
  if (!stream || stream->retired) {
    return Busywork() ? H2Error::kNoError
                      : Because(H2Error::kEnhanceYourCalm, "too many RST_STREAM");
  }
  // Opened and cancelled before we could answer: work for us, none for the peer.
  if (side_ == Side::kServer && !stream->state.answered && !resets_.Take(loop_.now())) {
    return Because(H2Error::kEnhanceYourCalm, "streams are opened and reset too fast");
  }
  bool in_order = code == static_cast<uint32_t>(H2Error::kNoError) ||
                  code == static_cast<uint32_t>(H2Error::kCancel);
  if (!stream->state.remote_ended) {
    // Stock reads NO_ERROR and CANCEL as the end of the stream (it sends CANCEL when it drops one).
    stream->end = in_order ? IoResult::Kind::kEof : IoResult::Kind::kReset;
  }
  if (stream->error.empty()) {
    stream->error = "the peer reset the stream (" + std::string(H2ErrorName(code)) + ")";
  }
  stream->write_broken = true;
  stream->state.local_ended = stream->state.remote_ended = true;
  if (stream->handle == nullptr) {
    if (size_t n = stream->DropInput(); n > 0) Consumed(*stream, n);
  }
  Kick(*stream);
  Retire(*stream);
  FailPending(*stream, {Code::kUnavailable, stream->error, 0},
              code == static_cast<uint32_t>(H2Error::kRefusedStream));
  return H2Error::kNoError;
}

}  // namespace qanat::hbone
