// SPDX-License-Identifier: Apache-2.0
// Memory for one handler: reading, sealing and opening need tens of KiB for microseconds, and
// neither an idle connection should hold them nor every event ask the allocator. A Scratch is a
// local variable on the loop's thread; the memory goes back to the loop when it ends, so that
// nested ones (HTTP/2 over TLS over a socket) each get their own. The content is undefined at first
// and stays behind afterwards: keys do not belong here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "common/event/event_loop.h"

namespace qanat::event {

class Scratch {
 public:
  // Four TLS records of full size, the largest read of anybody.
  static constexpr size_t kSize = 66 * 1024;

  explicit Scratch(EventLoop& loop) : loop_(loop) {
    if (loop.scratch_.empty()) {
      memory_ = std::unique_ptr<uint8_t[]>(new uint8_t[kSize]);  // not set to zero
    } else {
      memory_ = std::move(loop.scratch_.back());
      loop.scratch_.pop_back();
    }
  }
  ~Scratch() {
    if (loop_.scratch_.size() < kKept) loop_.scratch_.push_back(std::move(memory_));
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  uint8_t* data() { return memory_.get(); }
  std::span<uint8_t> span() { return {memory_.get(), kSize}; }

 private:
  static constexpr size_t kKept = 4;
  EventLoop& loop_;
  std::unique_ptr<uint8_t[]> memory_;
};

}  // namespace qanat::event
