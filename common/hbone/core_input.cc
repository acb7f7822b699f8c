// SPDX-License-Identifier: Apache-2.0
// What the peer sends (headers: core_headers.cc): frames checked against the state of the session
// and its streams. Every error has the code that RFC 9113 asks for; what costs us without being of
// use is counted.
#include <algorithm>

#include "common/hbone/core.h"

namespace qanat::hbone {

using net::IoResult;

namespace {

constexpr uint32_t kMaxGoaway = 16384;
constexpr uint32_t kMaxSettings = 6 * 64;
// What a client may still say to a server that wants no more of it.
constexpr size_t kDiscard = 256 << 10;

}  // namespace

H2Error Core::Because(H2Error code, std::string why, Abuse abuse) {
  why_ = std::move(why);
  abuse_ = abuse;
  return code;
}

H2Error Core::Calm(Abuse abuse, std::string why) {
  return Because(H2Error::kEnhanceYourCalm, std::move(why), abuse);
}

// A stream that ends by the peer's fault costs the peer one frame and us a stream.
H2Error Core::PeerCausedReset(Stream& stream, H2Error code, std::string why) {
  if (side_ == Side::kServer && !resets_.Take(loop_.now())) {
    return Calm(Abuse::kRapidReset, "the peer has us reset streams too fast: " + why);
  }
  auto keep = stream.shared_from_this();
  keep->SetError(std::move(why));
  FailPending(*keep, {Code::kUnavailable, keep->error(), 0}, false);
  if (keep->core == this) ResetStream(*keep, code);
  return H2Error::kNoError;
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
      if (!Busywork()) return Calm(Abuse::kUselessFrames, "too many PRIORITY frames");
      return expect(true, 5);
    case kRstStream: return expect(true, 4);
    case kSettings:
      if (on_stream) return Because(H2Error::kProtocolError, "SETTINGS on a stream");
      if (header.has(kFlagAck)) {
        if (!Busywork()) return Calm(Abuse::kSettingsFlood, "too many SETTINGS");
        return expect(false, 0);
      }
      if (header.length % 6 != 0) return H2Error::kFrameSizeError;
      if (header.length > kMaxSettings || !Busywork()) {
        return Calm(Abuse::kSettingsFlood, "too many SETTINGS");
      }
      return H2Error::kNoError;
    case kPushPromise: return Because(H2Error::kProtocolError, "PUSH_PROMISE is disabled");
    case kPing:
      if (!Busywork()) return Calm(Abuse::kPingFlood, "too many PINGs");
      return expect(false, 8);
    case kGoaway:
      if (on_stream) return Because(H2Error::kProtocolError, "GOAWAY on a stream");
      if (header.length < 8) return H2Error::kFrameSizeError;
      if (header.length > kMaxGoaway) {
        return Calm(Abuse::kUselessFrames, "a GOAWAY with too much in it");
      }
      return H2Error::kNoError;
    case kWindowUpdate: return header.length == 4 ? H2Error::kNoError : H2Error::kFrameSizeError;
    default:
      // Unknown types are skipped (RFC 9113 5.5), within reason.
      if (!Busywork()) return Calm(Abuse::kUselessFrames, "too many unknown frames");
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
    return Because(H2Error::kFlowControlError, "DATA beyond the connection's window",
                   Abuse::kWindowGames);
  }
  state_.recv_window -= length;
  Received(header.length);
  if (header.length == 0 && !header.has(kFlagEndStream) && !Busywork()) {
    return Calm(Abuse::kUselessFrames, "too many empty DATA frames");
  }
  Stream* stream = streams_.Find(header.stream);
  discard_data_ = true;
  if (stream == nullptr || stream->state.remote_ended) {
    // The bytes go nowhere. After our RST_STREAM they are no error.
    if (RecentlyReset(header.stream)) return H2Error::kNoError;
    if (!Busywork()) return Calm(Abuse::kUselessFrames, "DATA for closed streams");
    if (stream != nullptr && !stream->retired) {
      return PeerCausedReset(*stream, H2Error::kStreamClosed,
                             "the peer sent DATA after its END_STREAM");
    }
    PutRstStream(out_, header.stream, H2Error::kStreamClosed);
    RememberReset(header.stream);
    FlushSoon();
    return H2Error::kNoError;
  }
  if (side_ == Side::kClient && !stream->state.answered) {
    return Because(H2Error::kProtocolError, "DATA before the response");
  }
  if (length > stream->state.recv_window + state_.taken_back) {
    return PeerCausedReset(*stream, H2Error::kFlowControlError,
                           "the peer sent more than the stream's window");
  }
  stream->state.recv_window -= length;
  discard_data_ = false;
  data_seen_ = 0;
  return H2Error::kNoError;
}

H2Error Core::OnData(const FrameHeader& header, std::span<const uint8_t> piece) {
  if (discard_data_) return H2Error::kNoError;
  data_seen_ += static_cast<uint32_t>(piece.size());
  Stream* stream = streams_.Find(header.stream);
  // Reset by its user between two pieces of one frame?
  if (stream == nullptr || stream->state.remote_ended) return H2Error::kNoError;
  if (!stream->views) stream->views = LendViews();
  if (stream->views->empty()) touched_.push_back(stream->shared_from_this());
  stream->views->push_back(piece);
  stream->unread += piece.size();
  unread_ += piece.size();
  Moved(*stream, piece.size());
  return H2Error::kNoError;
}

H2Error Core::EndData(const FrameHeader& header) {
  if (discard_data_) return H2Error::kNoError;
  std::shared_ptr<Stream> stream = Hold(header.stream);
  // Padding counts in the windows but is nobody's to read.
  if (stream && header.length > data_seen_) GiveBack(*stream, header.length - data_seen_);
  if (stream && header.has(kFlagEndStream) && !stream->state.remote_ended) RemoteEnded(*stream);
  return H2Error::kNoError;
}

void Core::RemoteEnded(Stream& stream) {
  stream.state.remote_ended = true;
  Kick(stream);
  Retire(stream);
}

H2Error Core::SettingsFrame(const FrameHeader& header, std::span<const uint8_t> payload) {
  if (header.has(kFlagAck)) {
    if (state_.settings_unacked == 0) return H2Error::kNoError;  // of nothing that we sent
    decoder_.Allow(options_.header_table);                       // the first of ours says it
    if (--state_.settings_unacked == 0) state_.taken_back = 0;
    return H2Error::kNoError;
  }
  int64_t before = state_.peer.initial_window;
  H2Error error = ApplySettings(payload, state_.peer);
  if (error != H2Error::kNoError) return Because(error, "a setting is out of range");
  int64_t delta = state_.peer.initial_window - before;
  if (delta != 0) {
    for (const auto& [id, stream] : streams_.rows()) {
      stream->state.send_window += delta;
      if (stream->state.send_window > kMaxWindow) {
        return Because(H2Error::kFlowControlError, "a window grew over its limit",
                       Abuse::kWindowGames);
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
  if (RttAnswer(opaque)) return H2Error::kNoError;
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
  if (code != static_cast<uint32_t>(H2Error::kNoError)) {
    reason_.message = why;
    reason_.code = static_cast<H2Error>(code);
  }
  if (side_ == Side::kClient) {
    // Streams above the last one were certainly not processed.
    std::vector<std::shared_ptr<Stream>> refused;
    const StreamTable::Rows& rows = streams_.rows();
    for (size_t i = streams_.After(last); i < rows.size(); ++i) {
      if (!rows[i].second->retired) refused.push_back(rows[i].second);
    }
    for (const auto& stream : refused) {
      if (stream->core != this) continue;
      stream->SetError(why);
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
      return Because(H2Error::kFlowControlError, "the connection's window grew over its limit",
                     Abuse::kWindowGames);
    }
    if (!PaidWindowUpdate()) return Calm(Abuse::kWindowGames, "too many WINDOW_UPDATEs");
    KickWriters();
    return H2Error::kNoError;
  }
  if (Idle(side_, id, state_)) {
    return Because(H2Error::kProtocolError, "WINDOW_UPDATE on a stream that was never opened");
  }
  if (!PaidWindowUpdate()) return Calm(Abuse::kWindowGames, "too many WINDOW_UPDATEs");
  Stream* stream = streams_.Find(id);
  if (stream == nullptr || stream->retired) return H2Error::kNoError;
  if (increment == 0) {
    return PeerCausedReset(*stream, H2Error::kProtocolError,
                           "the peer sent a WINDOW_UPDATE of zero");
  }
  stream->state.send_window += increment;
  if (stream->state.send_window > kMaxWindow) {
    return PeerCausedReset(*stream, H2Error::kFlowControlError,
                           "the stream's window grew over its limit");
  }
  Kick(*stream);
  return H2Error::kNoError;
}

H2Error Core::ResetFrame(uint32_t id, uint32_t code) {
  if (Idle(side_, id, state_)) {
    return Because(H2Error::kProtocolError, "RST_STREAM on a stream that was never opened");
  }
  std::shared_ptr<Stream> stream = Hold(id);
  if (!stream || stream->retired) {
    return Busywork() ? H2Error::kNoError : Calm(Abuse::kUselessFrames, "too many RST_STREAM");
  }
  // Opened and cancelled before we could answer: work for us, none for the peer.
  if (side_ == Side::kServer && !stream->state.answered && !resets_.Take(loop_.now())) {
    return Calm(Abuse::kRapidReset, "streams are opened and reset too fast");
  }
  bool in_order = code == static_cast<uint32_t>(H2Error::kNoError) ||
                  code == static_cast<uint32_t>(H2Error::kCancel);
  if (stream->state.remote_ended && side_ == Side::kClient &&
      code == static_cast<uint32_t>(H2Error::kNoError)) {
    stream->MakeEnding().discard = kDiscard;
  }
  if (!stream->state.remote_ended) {
    // Stock reads NO_ERROR and CANCEL as the end of the stream (it sends CANCEL when it drops one).
    stream->end = in_order ? IoResult::Kind::kEof : IoResult::Kind::kReset;
  }
  if (stream->error().empty()) {
    stream->SetError("the peer reset the stream (" + std::string(H2ErrorName(code)) + ")");
  }
  stream->write_broken = true;
  stream->state.local_ended = stream->state.remote_ended = true;
  if (stream->handle == nullptr) {
    if (size_t n = stream->DropInput(); n > 0) Consumed(*stream, n);
  }
  Kick(*stream);
  Retire(*stream);
  FailPending(*stream, {Code::kUnavailable, stream->error(), 0},
              code == static_cast<uint32_t>(H2Error::kRefusedStream));
  return H2Error::kNoError;
}

}  // namespace qanat::hbone
