// SPDX-License-Identifier: Apache-2.0
// Windows. The connection's credit goes back at receipt: what a slow reader leaves unread is
// bounded by its own stream's window, and no other stream waits for it. Streams' credit goes back
// as their users read. Windows begin small and double while a whole half of them is read within two
// round trips, which is when the window, not the path or the reader, is what holds the peer back;
// so they settle at some bandwidth-delay products, and a reader that stalls holds little. While
// memory is scarce, of the process or of the pod whose stream it is, none grows, those that have
// grown shrink as they are read, and large first ones are taken back.
#include <algorithm>

#include "common/hbone/core.h"

namespace qanat::hbone {

namespace {

// Contents of PINGs that measure the round trip; keepalive counts from 1.
constexpr uint64_t kRttPing = uint64_t{0x7274} << 48;
constexpr auto kRttEvery = std::chrono::milliseconds(100);

}  // namespace

void Meter::Add(event::TimePoint now, uint64_t bytes) {
  const int64_t second = Second(now);
  if (second != second_) {
    before_ = second == second_ + 1 ? present_ : 0;
    present_ = 0;
    second_ = second;
  }
  present_ += bytes;
}

uint64_t Meter::Recent(event::TimePoint now) const {
  const int64_t second = Second(now);
  if (second == second_) return present_ + before_;
  return second == second_ + 1 ? present_ : 0;
}

uint64_t Core::bulk() const {
  const uint64_t recent = bulk_.Recent(loop_.now());
  return recent >= kBusyFrom ? recent : 0;
}

SessionStats Core::stats() const {
  SessionStats out;
  out.unread = unread_;
  out.window_growth = options_.connection_window - growth_left_;
  out.shed = shed_;
  out.rtt = std::chrono::duration_cast<std::chrono::microseconds>(rtt_);
  return out;
}

void Core::Moved(Stream& stream, size_t bytes) {
  stream.moved += bytes;
  if (stream.moved < kBulkFrom) return;
  bulk_.Add(loop_.now(), bytes);
  const bool busy = bulk() > 0;
  if (busy && !was_busy_) {  // the pool may want to have another tunnel ready
    change_pending_ = true;
    WakeSoon();
  }
  was_busy_ = busy;
}

void Core::Received(size_t bytes) {
  if (phase_ != Phase::kOpen) return;
  state_.recv_unacked += static_cast<uint32_t>(bytes);
  if (state_.recv_unacked < options_.connection_window / 4) return;
  PutWindowUpdate(out_, 0, state_.recv_unacked);
  state_.recv_window += std::exchange(state_.recv_unacked, 0);
  FlushSoon();
}

void Core::Consumed(Stream& stream, size_t bytes) {
  unread_ -= bytes;
  GiveBack(stream, bytes);
}

void Core::GiveBack(Stream& stream, size_t bytes) {
  if (phase_ != Phase::kOpen || stream.state.remote_ended) return;
  stream.state.recv_unacked += static_cast<uint32_t>(bytes);
  if (stream.state.recv_unacked < stream.state.window / 2) return;
  uint32_t credit = std::exchange(stream.state.recv_unacked, 0);
  if (loop_.memory().scarce() || (stream.owner != nullptr && stream.owner->scarce())) {
    credit -= Shrink(stream, credit);
  } else {
    credit += Grow(stream);
  }
  if (credit == 0) return;
  PutWindowUpdate(out_, stream.state.id, credit);
  stream.state.recv_window += credit;
  FlushSoon();
}

// Half a window was read; by how much does it grow?
uint32_t Core::Grow(Stream& stream) {
  if (stream.state.window >= options_.stream_window) return 0;
  const event::TimePoint now = event::Clock::now();
  const event::TimePoint last = std::exchange(stream.refilled, now);
  SampleRtt(now);
  if (last == event::TimePoint{} || rtt_.count() == 0 || now - last >= 2 * rtt_) return 0;
  const size_t grow = std::min({size_t{stream.state.window}, growth_left_,
                                size_t{options_.stream_window - stream.state.window}});
  growth_left_ -= grow;
  stream.state.window += static_cast<uint32_t>(grow);
  return static_cast<uint32_t>(grow);
}

// So much of the credit is not given back: the window is smaller by it.
uint32_t Core::Shrink(Stream& stream, uint32_t credit) {
  const uint32_t grown = stream.state.window - state_.first_window;
  const uint32_t less = std::min(credit, grown);
  stream.state.window -= less;
  growth_left_ += less;
  return less;
}

// Takes large first windows back (RFC 9113 6.9.2: windows may become negative by that). What the
// peer sends before it knows is no error.
void Core::ShrinkWindows() {
  const uint32_t small = options_.small_stream_window;
  if (state_.first_window <= small || phase_ != Phase::kOpen) return;
  const uint32_t less = state_.first_window - small;
  state_.first_window = small;
  state_.taken_back = less;
  ++state_.settings_unacked;
  PutSettings(out_, {{kSettingInitialWindow, small}});
  for (const auto& [id, stream] : streams_.rows()) {
    stream->state.recv_window -= less;
    stream->state.window -= less;
  }
  FlushSoon();
}

void Core::SampleRtt(event::TimePoint now) {
  if (rtt_waiting_ || (rtt_.count() != 0 && now - rtt_asked_ < kRttEvery)) return;
  PutPing(out_, kRttPing | ++rtt_ping_, false);
  rtt_waiting_ = true;
  rtt_asked_ = now;
  FlushSoon();
}

// Is this the answer to it? Time that PINGs spend behind other bytes counts: the credit that we
// give waits there too.
bool Core::RttAnswer(uint64_t opaque) {
  if (!rtt_waiting_ || opaque != (kRttPing | rtt_ping_)) return false;
  rtt_waiting_ = false;
  const std::chrono::nanoseconds sample = event::Clock::now() - rtt_asked_;
  rtt_ = rtt_.count() == 0 ? sample : rtt_ + (sample - rtt_) / 4;
  rtt_ = std::max(rtt_, std::chrono::nanoseconds(1));
  return true;
}

bool Core::ShedLargest() {
  Stream* largest = nullptr;
  for (const auto& [id, stream] : streams_.rows()) {
    if (largest == nullptr || stream->unread > largest->unread) largest = stream.get();
  }
  if (largest == nullptr || largest->unread == 0) return false;
  auto keep = largest->shared_from_this();
  ++shed_;
  if (keep->error().empty()) {
    keep->SetError("too much waits unread in the tunnel, most of it here");
  }
  keep->end = net::IoResult::Kind::kReset;
  Consumed(*keep, keep->DropInput());
  FailPending(*keep, {Code::kResourceExhausted, keep->error(), 0}, false);
  if (keep->core != this) return false;
  if (keep->retired) {
    Kick(*keep);
  } else {
    ResetStream(*keep, H2Error::kEnhanceYourCalm);
  }
  return true;
}

// A peer that takes our DATA says so, as often as Write() allows for.
bool Core::PaidWindowUpdate() {
  if (paid_updates_ == 0) return Busywork();
  --paid_updates_;
  return true;
}

// Half a header block blocks everything behind it, so it may not take for ever.
void Core::WatchHeaders() {
  if (!headers_open_ || phase_ != Phase::kOpen) {
    if (headers_deadline_) headers_deadline_->Stop();
    return;
  }
  if (options_.preface_timeout.count() == 0) return;
  if (!headers_deadline_) {
    headers_deadline_ = std::make_unique<event::Timer>(loop_, [this] {
      abuse_ = Abuse::kSlowPeer;
      Fail(H2Error::kEnhanceYourCalm, "a header block was begun and not finished within " +
                                          std::to_string(options_.preface_timeout.count()) + " ms");
    });
  }
  if (!headers_deadline_->armed()) headers_deadline_->Start(options_.preface_timeout);
}

}  // namespace qanat::hbone
