// SPDX-License-Identifier: Apache-2.0
// For tests and fuzzers: a two-way byte stream in memory with a delay each way, bounded buffers,
// and reads and writes that may be cut anywhere. (net::MakePipe has neither.)
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "common/event/event_loop.h"
#include "common/net/transport.h"

namespace qanat::hbone::testing {

struct LinkOptions {
  event::Duration delay{0};  // one way
  size_t capacity = 64u << 20;
  // How much of `n` bytes is moved now; 0: nothing, come again. nullptr: all.
  std::function<size_t(size_t n)> cut;
};

class LinkEnd final : public net::Transport {
  struct Chunk {
    event::TimePoint ready;
    std::vector<uint8_t> bytes;
    size_t head = 0;
  };
  struct Lane {
    std::deque<Chunk> chunks;
    size_t bytes = 0;
    bool ended = false, reset = false;
  };
  struct Shared {
    LinkOptions options;
    Lane lanes[2];
    LinkEnd* ends[2] = {nullptr, nullptr};
  };

 public:
  LinkEnd(event::EventLoop& loop, std::shared_ptr<Shared> shared, int side)
      : loop_(loop), shared_(std::move(shared)), side_(side), tick_(loop, [this] { Tick(); }) {
    shared_->ends[side_] = this;
  }
  ~LinkEnd() override {
    shared_->ends[side_] = nullptr;
    (in().bytes == 0 ? out().ended : out().reset) = true;
    Wake();
  }
  static std::pair<net::TransportPtr, net::TransportPtr> Make(event::EventLoop& loop,
                                                              LinkOptions options) {
    auto shared = std::make_shared<Shared>();
    shared->options = std::move(options);
    return {std::make_unique<LinkEnd>(loop, shared, 0), std::make_unique<LinkEnd>(loop, shared, 1)};
  }

  void SetEvents(net::TransportEvents* events) override { events_ = events; }
  void ReadEnable(bool on) override {
    reading_ = on;
    Arm();
  }
  void WriteEnable(bool on) override {
    writing_ = on;
    Arm();
  }
  net::IoResult Read(std::span<uint8_t> into) override {
    if (in().reset) return {net::IoResult::Kind::kReset, 0};
    size_t room = Cut(into.size()), total = 0;
    while (total < room && Ready()) {
      Chunk& chunk = in().chunks.front();
      const size_t n = std::min(room - total, chunk.bytes.size() - chunk.head);
      std::memcpy(into.data() + total, chunk.bytes.data() + chunk.head, n);
      chunk.head += n;
      total += n;
      if (chunk.head == chunk.bytes.size()) in().chunks.pop_front();
    }
    in().bytes -= total;
    if (total > 0) {
      Wake();
      return {net::IoResult::Kind::kOk, total};
    }
    const bool end = in().ended && in().bytes == 0;
    return {end ? net::IoResult::Kind::kEof : net::IoResult::Kind::kWouldBlock, 0};
  }
  net::IoResult Write(std::span<const iovec> from) override {
    if (in().reset || out().reset || out().ended || shared_->ends[1 - side_] == nullptr) {
      return {net::IoResult::Kind::kReset, 0};
    }
    size_t wanted = 0;
    for (const iovec& part : from) wanted += part.iov_len;
    if (wanted == 0) return {};
    size_t room = Cut(std::min(wanted, shared_->options.capacity - out().bytes));
    if (room == 0) return {net::IoResult::Kind::kWouldBlock, 0};
    Chunk chunk;
    chunk.ready = event::Clock::now() + shared_->options.delay;
    chunk.bytes.reserve(room);
    for (const iovec& part : from) {
      const size_t n = std::min(part.iov_len, room - chunk.bytes.size());
      const auto* p = static_cast<const uint8_t*>(part.iov_base);
      chunk.bytes.insert(chunk.bytes.end(), p, p + n);
    }
    out().bytes += room;
    out().chunks.push_back(std::move(chunk));
    Wake();
    return {net::IoResult::Kind::kOk, room};
  }
  net::IoResult ShutdownWrite() override {
    if (in().reset) return {net::IoResult::Kind::kReset, 0};
    out().ended = true;
    Wake();
    return {};
  }
  void Abort() override {
    out().reset = in().reset = true;
    Wake();
  }
  event::EventLoop& loop() override { return loop_; }
  net::SocketAddress local_address() const override { return Name(side_); }
  net::SocketAddress peer_address() const override { return Name(1 - side_); }

 private:
  static net::SocketAddress Name(int side) {
    return {net::IpAddress::V4(0x7f000001), static_cast<uint16_t>(1 + side)};
  }
  Lane& in() { return shared_->lanes[1 - side_]; }
  Lane& out() { return shared_->lanes[side_]; }
  size_t Cut(size_t n) { return shared_->options.cut && n > 0 ? shared_->options.cut(n) : n; }
  bool Ready() {
    return !in().chunks.empty() && (shared_->options.delay.count() == 0 ||
                                    in().chunks.front().ready <= event::Clock::now());
  }
  bool Readable() { return in().reset || Ready() || (in().ended && in().bytes == 0); }
  bool Writable() {
    return in().reset || shared_->ends[1 - side_] == nullptr ||
           out().bytes < shared_->options.capacity;
  }
  void Wake() {
    if (shared_->ends[1 - side_] != nullptr) shared_->ends[1 - side_]->Arm();
  }
  void Arm() {
    if ((reading_ && Readable()) || (writing_ && Writable())) {
      tick_.Start({});
    } else if (reading_ && !in().chunks.empty()) {
      tick_.Start(std::max(in().chunks.front().ready - event::Clock::now(), event::Duration(0)));
    }
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
  const int side_;
  net::TransportEvents* events_ = nullptr;
  bool reading_ = false, writing_ = false;
  event::Timer tick_;
  std::shared_ptr<bool> life_ = std::make_shared<bool>(true);
};

}  // namespace qanat::hbone::testing
