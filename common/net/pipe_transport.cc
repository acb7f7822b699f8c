// SPDX-License-Identifier: Apache-2.0
// Two ends of an in-memory stream that behave as sockets do: bounded buffers, half close, reset.
#include <algorithm>
#include <cstring>
#include <deque>

#include "common/net/transport.h"

namespace qanat::net {
namespace {

// What one end writes and the other reads.
struct Lane {
  std::deque<uint8_t> bytes;
  bool ended = false;
  bool reset = false;
};

class PipeEnd;

struct Shared {
  Lane lanes[2];
  PipeEnd* ends[2] = {nullptr, nullptr};
  size_t capacity = 0;
};

class PipeEnd final : public Transport {
 public:
  PipeEnd(event::EventLoop& loop, std::shared_ptr<Shared> shared, int side)
      : loop_(loop), shared_(std::move(shared)), side_(side), tick_(loop, [this] { Tick(); }) {
    shared_->ends[side_] = this;
  }
  ~PipeEnd() override {
    shared_->ends[side_] = nullptr;
    if (!out().ended && !out().reset) {
      // As close() does: unread input makes a RST, otherwise a FIN.
      if (in().bytes.empty()) {
        out().ended = true;
      } else {
        out().reset = true;
      }
    }
    WakePeer();
  }

  void SetEvents(TransportEvents* events) override { events_ = events; }
  void ReadEnable(bool on) override {
    reading_ = on;
    Arm();
  }
  void WriteEnable(bool on) override {
    writing_ = on;
    Arm();
  }
  IoResult Read(std::span<uint8_t> into) override {
    if (in().reset) return {IoResult::Kind::kReset, 0};
    if (in().bytes.empty()) {
      return {in().ended ? IoResult::Kind::kEof : IoResult::Kind::kWouldBlock, 0};
    }
    size_t n = std::min(into.size(), in().bytes.size());
    std::copy_n(in().bytes.begin(), n, into.begin());
    in().bytes.erase(in().bytes.begin(), in().bytes.begin() + static_cast<std::ptrdiff_t>(n));
    WakePeer();
    return {IoResult::Kind::kOk, n};
  }
  IoResult Write(std::span<const iovec> from) override {
    if (in().reset || out().reset || out().ended || peer_gone()) {
      return {IoResult::Kind::kReset, 0};
    }
    size_t total = 0, wanted = 0;
    for (const iovec& part : from) {
      wanted += part.iov_len;
      size_t n = std::min(part.iov_len, shared_->capacity - out().bytes.size());
      const auto* p = static_cast<const uint8_t*>(part.iov_base);
      out().bytes.insert(out().bytes.end(), p, p + n);
      total += n;
      if (n < part.iov_len) break;
    }
    if (total == 0 && wanted > 0) return {IoResult::Kind::kWouldBlock, 0};
    WakePeer();
    return {IoResult::Kind::kOk, total};
  }
  IoResult ShutdownWrite() override {
    if (in().reset) return {IoResult::Kind::kReset, 0};
    out().ended = true;
    WakePeer();
    return {};
  }
  void Abort() override {
    out().reset = true;
    in().reset = true;
    WakePeer();
  }
  event::EventLoop& loop() override { return loop_; }
  SocketAddress local_address() const override { return Name(side_); }
  SocketAddress peer_address() const override { return Name(1 - side_); }
  std::string error() const override { return {}; }

  void Arm() {
    if ((reading_ && Readable()) || (writing_ && Writable())) {
      if (!tick_.armed()) tick_.Start({});
    }
  }

 private:
  static SocketAddress Name(int side) {
    return {IpAddress::V4(0x7f000001), static_cast<uint16_t>(1 + side)};
  }
  Lane& in() { return shared_->lanes[1 - side_]; }
  Lane& out() { return shared_->lanes[side_]; }
  bool peer_gone() const { return shared_->ends[1 - side_] == nullptr; }
  bool Readable() { return in().reset || in().ended || !in().bytes.empty(); }
  bool Writable() { return in().reset || peer_gone() || out().bytes.size() < shared_->capacity; }
  void WakePeer() {
    if (shared_->ends[1 - side_] != nullptr) shared_->ends[1 - side_]->Arm();
  }
  void Tick() {
    std::weak_ptr<bool> alive = life_;
    if (reading_ && Readable() && events_ != nullptr) events_->OnReadable();
    if (alive.expired()) return;
    if (writing_ && Writable() && events_ != nullptr) events_->OnWritable();
    if (alive.expired()) return;
    Arm();
  }

  event::EventLoop& loop_;
  std::shared_ptr<Shared> shared_;
  int side_;
  TransportEvents* events_ = nullptr;
  bool reading_ = false;
  bool writing_ = false;
  event::Timer tick_;
  std::shared_ptr<bool> life_ = std::make_shared<bool>(true);
};

}  // namespace

std::pair<TransportPtr, TransportPtr> MakePipe(event::EventLoop& loop, size_t capacity) {
  auto shared = std::make_shared<Shared>();
  shared->capacity = capacity;
  return {std::make_unique<PipeEnd>(loop, shared, 0), std::make_unique<PipeEnd>(loop, shared, 1)};
}

}  // namespace qanat::net
