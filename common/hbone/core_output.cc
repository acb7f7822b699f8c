// SPDX-License-Identifier: Apache-2.0
// What the session sends: small writes are gathered and go out at the end of the round, large ones
// go straight from their owner's memory to the transport.
#include <algorithm>
#include <array>

#include "common/hbone/core.h"

namespace qanat::hbone {

using net::IoResult;

namespace {

// With its header a DATA frame fills one TLS record.
constexpr size_t kDataPerFrame = 16384 - kFrameHeaderSize;
constexpr size_t kDirectFrom = 8 * 1024;  // writes of this size skip the session's buffer
constexpr size_t kMaxDirect = 256 * 1024;
// More than data can explain: the peer has us answer and does not read the answers.
constexpr size_t kControlSlack = 1 << 20;
constexpr size_t kTiny = 256;             // a window of less than this is not worth a frame
constexpr size_t kWorthwhile = 4 * 1024;  // a peer that takes so much at once does not dribble
// WINDOW_UPDATEs that a peer may answer with: Go sends one per 4 KiB, for stream and connection;
// simple peers two for each frame.
constexpr size_t kPaysOne = 1024;
constexpr uint32_t kMostPaid = 65536;
constexpr size_t kMostPieces = 16;  // of one direct write
constexpr auto kHeardLately = std::chrono::milliseconds(250);

}  // namespace

bool Core::Writable(const Stream& stream) const {
  return phase_ == Phase::kOpen && stream.state.answered && !stream.state.local_ended &&
         stream.state.send_window > 0 && state_.send_window > 0 &&
         out_.size() < options_.send_buffer;
}

IoResult Core::Write(Stream& stream, std::span<const iovec> from) {
  size_t wanted = 0;
  for (const iovec& part : from) wanted += part.iov_len;
  if (wanted == 0) return {};
  if (!Writable(stream)) return {IoResult::Kind::kWouldBlock, 0};
  size_t size = std::min({wanted, static_cast<size_t>(stream.state.send_window),
                          static_cast<size_t>(state_.send_window)});
  if (size < wanted && size < kTiny && !Busywork()) {
    dribble_ = true;
    WakeSoon();
    return {IoResult::Kind::kWouldBlock, 0};
  }
  next_writer_ = stream.state.id;
  if (size >= kDirectFrom && !transport_full_ && !transport_ended_) {
    size = WriteDirect(stream, from, std::min(size, kMaxDirect));
  } else {
    size = std::min(size, options_.send_buffer - out_.size());
    size_t frame_limit = std::min<size_t>(kDataPerFrame, state_.peer.max_frame_size);
    size_t offset = 0;
    for (size_t left = size; left > 0;) {
      size_t frame = std::min(left, frame_limit);
      uint8_t raw[kFrameHeaderSize];
      FormatFrameHeader({static_cast<uint32_t>(frame), kData, 0, stream.state.id}, raw);
      out_.Append(raw, sizeof raw);
      left -= frame;
      while (frame > 0) {
        size_t n = std::min(frame, from[0].iov_len - offset);
        if (n > 0) out_.Append(static_cast<const uint8_t*>(from[0].iov_base) + offset, n);
        frame -= n;
        offset += n;
        if (offset == from[0].iov_len) {
          from = from.subspan(1);
          offset = 0;
        }
      }
    }
    FlushSoon();
  }
  if (size == 0) return {IoResult::Kind::kWouldBlock, 0};
  stream.state.send_window -= static_cast<int64_t>(size);
  state_.send_window -= static_cast<int64_t>(size);
  if (size >= kWorthwhile) busywork_.Refund(1);
  paid_updates_ = std::min(paid_updates_ + 2 + static_cast<uint32_t>(size / kPaysOne), kMostPaid);
  Moved(stream, size);
  return {IoResult::Kind::kOk, size};
}

// A peer that was silent for a while may be gone. What it was given could not be given to another
// one in its place, so it gets nothing ahead.
bool Core::PeerTakesEarly() const {
  return state_.settings_seen && state_.peer.takes_early &&
         loop_.now() - last_input_ < kHeardLately;
}

// All of it or nothing: who is left with a part would have to know which.
size_t Core::PutEarly(Stream& stream, const ConnectRequest& request) {
  constexpr auto kMost = static_cast<int64_t>(kMostEarly);
  if (!request.early || !PeerTakesEarly() || stream.state.send_window < kMost ||
      state_.send_window < kMost || out_.size() + kMostEarly > options_.send_buffer) {
    return 0;
  }
  const std::span<const uint8_t> bytes = request.early();
  const size_t size = bytes.size();
  if (size == 0 || size > kMostEarly) return 0;
  uint8_t raw[kFrameHeaderSize];
  FormatFrameHeader({static_cast<uint32_t>(size), kData, 0, stream.state.id}, raw);
  out_.Append(raw, sizeof raw);
  out_.Append(bytes);
  stream.state.send_window -= static_cast<int64_t>(size);
  state_.send_window -= static_cast<int64_t>(size);
  paid_updates_ = std::min(paid_updates_ + 2, kMostPaid);
  Moved(stream, size);
  return size;
}

// Hands the caller's bytes to the transport without copying them. A frame that went out in part is
// completed from the session's buffer; frames that did not begin count as not written.
size_t Core::WriteDirect(Stream& stream, std::span<const iovec> from, size_t size) {
  constexpr size_t kFrames = kMaxDirect / kDataPerFrame + 1;
  size_t frame_limit = std::min<size_t>(kDataPerFrame, state_.peer.max_frame_size);
  size = std::min(size, kFrames * frame_limit);
  if (from.size() > kMostPieces) {
    from = from.first(kMostPieces);
    size_t sum = 0;
    for (const iovec& piece : from) sum += piece.iov_len;
    size = std::min(size, sum);
  }
  std::array<std::array<uint8_t, kFrameHeaderSize>, kFrames> headers;
  // A frame has its header and the pieces it is made of; a piece is cut where a frame ends.
  std::array<iovec, 1 + 2 * kFrames + kMostPieces> parts;
  size_t count = 0;
  size_t waiting = out_.size();
  if (waiting > 0) {
    parts[count++] = {const_cast<uint8_t*>(out_.front().data()), waiting};
  }
  size_t total = waiting, offset = 0, used = 0;
  for (size_t left = size; left > 0; ++used) {
    size_t frame = std::min(left, frame_limit);
    FormatFrameHeader({static_cast<uint32_t>(frame), kData, 0, stream.state.id},
                      headers[used].data());
    parts[count++] = {headers[used].data(), kFrameHeaderSize};
    total += kFrameHeaderSize + frame;
    left -= frame;
    while (frame > 0) {
      size_t n = std::min(frame, from[0].iov_len - offset);
      if (n > 0) parts[count++] = {static_cast<uint8_t*>(from[0].iov_base) + offset, n};
      frame -= n;
      offset += n;
      if (offset == from[0].iov_len) {
        from = from.subspan(1);
        offset = 0;
      }
    }
  }
  IoResult wrote = transport_->Write({parts.data(), count});
  if (!wrote.ok() && wrote.kind != IoResult::Kind::kWouldBlock) {
    transport_ended_ = true;  // reading will say why
    out_.Clear();
    return size;
  }
  size_t taken = wrote.bytes;
  if (taken < total) {
    transport_full_ = true;
    transport_->WriteEnable(true);
  }
  if (waiting > 0) out_.Consume(std::min(taken, waiting));
  if (lingering_ != nullptr && out_.empty()) {
    urgent_ = true;  // company, which has taken along what waited
    flush_.Stop();
    EndLinger();
  }
  if (taken <= waiting) return 0;
  taken -= waiting;
  // Complete the frame that was cut.
  size_t per_frame = kFrameHeaderSize + frame_limit;
  size_t whole = taken / per_frame, rest = taken % per_frame;
  size_t payload = whole * frame_limit;
  if (rest == 0 || payload >= size) return std::min(payload, size);
  size_t frame = std::min(size - payload, frame_limit);
  size_t skip = taken;  // bytes of ours that went out
  size_t end = whole * per_frame + kFrameHeaderSize + frame;
  size_t at = 0;
  for (size_t i = waiting > 0 ? 1 : 0; i < count && at < end; ++i) {
    size_t from_byte = std::max(at, skip), to_byte = std::min(at + parts[i].iov_len, end);
    if (from_byte < to_byte) {
      out_.Append(static_cast<uint8_t*>(parts[i].iov_base) + (from_byte - at), to_byte - from_byte);
    }
    at += parts[i].iov_len;
  }
  return payload + frame;
}

// ---- when
//
// At the end of the round, with all else that the round's handlers say. What a stream's end or an
// answer says is not urgent where the next thing that goes the same way most often follows at once:
// the first bytes of the application behind the answer, the next connection behind the end of the
// last one. Those wait for it (Patience), but never a byte of a user's.

void Core::FlushSoon() {
  if (phase_ == Phase::kOver) return;
  if (!flush_.armed() || (lingering_ != nullptr && !urgent_)) flush_.Start({});
  urgent_ = true;
}

void Core::FlushPatiently() {
  if (phase_ == Phase::kOver) return;
  // Who joins those that wait is looked at as well.
  if (!flush_.armed() || (lingering_ != nullptr && !urgent_)) flush_.Start({});
  ++patient_;
}

void Core::FlushDue() {
  if (urgent_ || !MayLinger()) return Flush();
  flush_.Start(linger_until_ - event::Clock::now());
}

bool Core::MayLinger() {
  if (options_.patience.count() == 0 || phase_ != Phase::kOpen || transport_full_) return false;
  for (const uint32_t id : patient_answers_) {
    // Who has sent nothing yet may be waiting for the answer, who has sent all that may go before
    // it most likely has more.
    const Stream* stream = streams_.Find(id);
    if (stream == nullptr || stream->moved == 0 || stream->moved >= kMostEarly) return false;
  }
  const event::TimePoint now = event::Clock::now();
  if (lingering_ != nullptr) return now < linger_until_;
  Patience& patience = patient_answers_.empty() ? end_patience_ : answer_patience_;
  if (!patience.Try()) return false;
  lingering_ = &patience;
  linger_until_ = now + options_.patience;
  return true;
}

void Core::EndLinger() {
  if (lingering_ != nullptr && (urgent_ || patient_ > 1)) {
    lingering_->Found();
  } else if (lingering_ != nullptr) {
    lingering_->Alone();
  }
  lingering_ = nullptr;
  urgent_ = false;
  patient_ = 0;
  patient_answers_.clear();
}

void Core::Flush() {
  flush_.Stop();
  EndLinger();
  if (phase_ == Phase::kOver) return;
  const bool was_full = out_.size() >= options_.send_buffer;
  bool blocked = false;
  while (!out_.empty() && !transport_ended_ && !blocked) {
    auto front = out_.front();
    iovec part{const_cast<uint8_t*>(front.data()), front.size()};
    IoResult wrote = transport_->Write({&part, 1});
    blocked = wrote.kind == IoResult::Kind::kWouldBlock;
    // What the peer said before it went is still to be read, and its end too.
    if (!blocked && !wrote.ok()) transport_ended_ = true;
    out_.Consume(wrote.bytes);
  }
  if (transport_ended_) out_.Clear();
  out_charge_.Set(out_.capacity());
  if (blocked || transport_full_) transport_->WriteEnable(blocked);
  transport_full_ = blocked;
  // A full buffer gets room here and nowhere else (nobody else writes while it is full), so this is
  // where the streams that waited for it are told, whoever asked for the flush.
  if (was_full && phase_ == Phase::kOpen && out_.size() < options_.send_buffer) KickWriters();
  if (blocked && phase_ == Phase::kOpen && out_.size() > options_.send_buffer + kControlSlack) {
    abuse_ = Abuse::kSlowPeer;
    Fail(H2Error::kEnhanceYourCalm, "the peer does not read our answers");
  }
  if (phase_ == Phase::kClosing && !blocked) TryShutdown();
}

void Core::OnWritable() {
  if (phase_ == Phase::kOver) return;
  if (phase_ == Phase::kClosing && out_.empty()) return TryShutdown();
  Flush();
}

void Core::KickWriters() {
  // Kick() calls nobody: the table stays as it is.
  const StreamTable::Rows& rows = streams_.rows();
  const size_t start = streams_.After(next_writer_);
  for (size_t i = 0; i < rows.size(); ++i) {
    Stream& stream = *rows[(start + i) % rows.size()].second;
    if (stream.writing) Kick(stream);
  }
}

}  // namespace qanat::hbone
