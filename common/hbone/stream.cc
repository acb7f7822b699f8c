// SPDX-License-Identifier: Apache-2.0
#include "common/hbone/stream.h"

#include <algorithm>
#include <cstring>

#include "common/hbone/core.h"

namespace qanat::hbone {

using net::IoResult;

size_t Stream::TakeInput(std::span<uint8_t> into) {
  size_t total = 0;
  if (kept) {
    ByteQueue& bytes = kept->bytes;
    total = std::min(into.size(), bytes.size());
    std::memcpy(into.data(), bytes.front().data(), total);
    bytes.Consume(total);
    if (bytes.empty()) {
      kept.reset();
    } else {
      kept->charge.Set(bytes.capacity());
    }
  }
  size_t used = 0;
  while (views && total < into.size() && used < views->size()) {
    std::span<const uint8_t>& view = (*views)[used];
    size_t n = std::min(into.size() - total, view.size());
    std::memcpy(into.data() + total, view.data(), n);
    total += n;
    view = view.subspan(n);
    if (view.empty()) ++used;
  }
  if (used > 0) views->erase(views->begin(), views->begin() + static_cast<std::ptrdiff_t>(used));
  unread -= total;
  return total;
}

void Stream::Keep(std::span<const uint8_t> bytes, MemoryMeter& meter) {
  if (bytes.empty()) return;
  if (!kept) {
    kept = std::make_unique<Kept>(meter);
    kept->charge.ChargeTo(owner);
  }
  kept->bytes.Append(bytes);
  kept->charge.Set(kept->bytes.capacity());
}

void Stream::KeepViews(MemoryMeter& meter) {
  if (!views) return;
  for (std::span<const uint8_t> view : *views) Keep(view, meter);
  views->clear();
}

size_t Stream::DropInput() {
  kept.reset();
  if (views) views->clear();
  return std::exchange(unread, 0);
}

void Stream::ChargeTo(MemoryMeter* to) {
  owner = to;
  if (kept) kept->charge.ChargeTo(to);
}

StreamTransport::StreamTransport(std::shared_ptr<Stream> stream, event::EventLoop& loop,
                                 std::shared_ptr<const Ends> ends)
    : stream_(std::move(stream)), loop_(loop), ends_(std::move(ends)) {
  stream_->handle = this;
}

StreamTransport::~StreamTransport() {
  stream_->handle = nullptr;
  stream_->events = nullptr;
  stream_->reading = stream_->writing = false;
  if (stream_->core != nullptr) {
    stream_->core->HandleGone(*stream_);
  } else {
    stream_->DropInput();
  }
  ChargeTo(nullptr);  // its owner may go now
}

std::shared_ptr<const tls::VerifiedPeer> StreamTransport::verified_peer() const {
  return stream_->core == nullptr ? nullptr : stream_->core->verified_peer();
}

void StreamTransport::SetEvents(net::TransportEvents* events) {
  stream_->events = events;
  Arm();
}

void StreamTransport::ReadEnable(bool on) {
  stream_->reading = on;
  Arm();
}

void StreamTransport::WriteEnable(bool on) {
  stream_->writing = on;
  Arm();
}

void StreamTransport::Arm() {
  if (stream_->core != nullptr) {
    stream_->core->Kick(*stream_);
    return;
  }
  // The session is over: reading comes to its end, writing fails; both are worth an event.
  if (stream_->events == nullptr || (!stream_->reading && !stream_->writing)) return;
  if (!tick_) tick_ = std::make_unique<event::Timer>(loop_, [this] { Tick(); });
  if (!tick_->armed()) tick_->Start({});
}

void StreamTransport::Tick() {
  std::shared_ptr<Stream> stream = stream_;
  if (stream->reading && stream->events != nullptr) stream->events->OnReadable();
  if (stream->handle == nullptr) return;
  if (stream->writing && stream->events != nullptr) stream->events->OnWritable();
  if (stream->handle == nullptr) return;
  Arm();
}

IoResult StreamTransport::Read(std::span<uint8_t> into) {
  if (into.empty()) return {};
  if (stream_->unread > 0) {
    size_t n = stream_->TakeInput(into);
    if (stream_->core != nullptr) stream_->core->Consumed(*stream_, n);
    return {IoResult::Kind::kOk, n};
  }
  if (stream_->end != IoResult::Kind::kWouldBlock) return {stream_->end, 0};
  return {stream_->state.remote_ended ? IoResult::Kind::kEof : IoResult::Kind::kWouldBlock, 0};
}

IoResult StreamTransport::Write(std::span<const iovec> from) {
  if (stream_->discard() > size_t{0}) {
    size_t wanted = 0;
    for (const iovec& part : from) wanted += part.iov_len;
    wanted = std::min(wanted, *stream_->ending->discard);
    *stream_->ending->discard -= wanted;
    return {IoResult::Kind::kOk, wanted};
  }
  if (stream_->core == nullptr || stream_->write_broken || stream_->state.local_ended) {
    return {IoResult::Kind::kReset, 0};
  }
  return stream_->core->Write(*stream_, from);
}

IoResult StreamTransport::ShutdownWrite() {
  if (stream_->discard()) return {};
  if (stream_->write_broken) return {IoResult::Kind::kReset, 0};
  if (stream_->state.local_ended) return {};
  if (stream_->core == nullptr) return {IoResult::Kind::kReset, 0};
  stream_->core->EndStream(*stream_);
  return {};
}

void StreamTransport::Abort() {
  if (stream_->core != nullptr && !stream_->retired) {
    stream_->core->ResetStream(*stream_, H2Error::kConnectError);
  }
  if (size_t n = stream_->DropInput(); n > 0 && stream_->core != nullptr) {
    stream_->core->Consumed(*stream_, n);
  }
  stream_->end = IoResult::Kind::kReset;
  stream_->write_broken = true;
}

}  // namespace qanat::hbone
