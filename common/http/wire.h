// SPDX-License-Identifier: Apache-2.0
// What both codecs need of a transport: bounded reading, an output buffer that is written once per
// round, orderly closing, and callbacks that never run inside a call of the user's. Owned by one
// connection.
#pragma once

#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/event/event_loop.h"
#include "common/net/transport.h"

namespace qanat::http {

// A byte queue: append at the end, take from the front.
class ByteQueue {
 public:
  void Append(std::string_view bytes) { data_.append(bytes); }
  std::string_view view() const { return std::string_view(data_).substr(head_); }
  size_t size() const { return data_.size() - head_; }
  bool empty() const { return head_ == data_.size(); }
  void Consume(size_t n) {
    head_ += n;
    if (head_ == data_.size()) {
      data_.clear();
      if (data_.capacity() > 65536) data_.shrink_to_fit();  // idle connections hold no burst
      head_ = 0;
    } else if (head_ > 65536 && head_ * 2 > data_.size()) {
      data_.erase(0, head_);
      head_ = 0;
    }
  }
  void Clear() {
    data_ = {};
    head_ = 0;
  }

 private:
  std::string data_;
  size_t head_ = 0;
};

// A deadline that may be moved later often without touching the loop's timers.
class Deadline {
 public:
  Deadline(event::EventLoop& loop, std::function<void()> expired)
      : loop_(loop), expired_(std::move(expired)), timer_(loop, [this] { Fire(); }) {}
  void Set(std::chrono::milliseconds from_now) {  // 0 = none
    at_ = from_now.count() == 0 ? event::TimePoint::max() : loop_.now() + from_now;
    if (set() && (!timer_.armed() || armed_for_ > at_)) Arm();
  }
  void Clear() { at_ = event::TimePoint::max(); }
  bool set() const { return at_ != event::TimePoint::max(); }

 private:
  void Arm() {
    armed_for_ = at_;
    timer_.Start(at_ > loop_.now() ? at_ - loop_.now() : event::Duration{});
  }
  void Fire() {
    if (!set()) return;
    if (at_ > loop_.now()) return Arm();
    Clear();
    expired_();
  }
  event::EventLoop& loop_;
  std::function<void()> expired_;
  event::Timer timer_;
  event::TimePoint at_ = event::TimePoint::max();
  event::TimePoint armed_for_;
};

class Wire final : private net::TransportEvents {
 public:
  class Owner {
   public:
    virtual void OnBytes(std::string_view bytes) = 0;  // takes all of them
    virtual void OnEnd(bool orderly, std::string_view detail) = 0;
    // Room in the output: produce more with Append(). Called before each write.
    virtual void OnFlush() = 0;
    // After a round of reading, writing or Kick(): deliver what was put off; may close.
    virtual void OnSettled() = 0;

   protected:
    ~Owner() = default;
  };
  static constexpr size_t kOutputTarget = 64 * 1024;

  Wire(net::TransportPtr transport, Owner& owner);
  ~Wire();

  void Read(bool on);  // off at the start
  void Append(std::string_view bytes) { out_.Append(bytes); }
  size_t pending() const { return out_.size(); }
  bool full() const { return out_.size() >= kOutputTarget; }
  // Runs OnFlush and OnSettled soon, from the loop.
  void Kick();
  // After what is pending: end our direction, wait for the peer's end (1 s at most), then OnEnd.
  void CloseAfterFlush();
  // In OnEnd(orderly): ends our direction in order too, if all was sent. Otherwise destroying the
  // transport aborts it, and the peer of a tunnelled stream sees a reset.
  void EndWrite() {
    if (end_orderly_ && !aborted_ && !shut_ && out_.empty()) (void)transport_->ShutdownWrite();
    shut_ = true;
  }
  // OnEnd soon; what is pending is lost and the peer sees an error.
  void Abort(std::string_view detail);
  bool closing() const { return closing_ || ended_; }
  bool ended() const { return ended_; }
  bool aborted() const { return aborted_; }  // by us, not by the peer
  net::Transport& transport() { return *transport_; }
  event::EventLoop& loop() { return transport_->loop(); }

 private:
  void OnReadable() override;
  void OnWritable() override;
  void Flush();
  void Round();  // flush, settle
  void End(bool orderly, std::string_view detail);

  net::TransportPtr transport_;
  Owner& owner_;
  ByteQueue out_;
  event::Timer kick_;
  event::Timer linger_;
  bool reading_ = false;
  bool closing_ = false;
  bool shut_ = false;   // our direction has been ended
  bool ended_ = false;  // nothing moves any more
  bool aborted_ = false;
  bool told_ = false;  // OnEnd has been called
  bool end_orderly_ = true;
  std::string end_detail_;
};

}  // namespace qanat::http
