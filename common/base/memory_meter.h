// SPDX-License-Identifier: Apache-2.0
// How much memory the buffers of one owner hold: those of an event loop (its connections, tunnels,
// TLS records, DNS questions) or those of a pod. Whoever holds has a MemoryCharge and says its size
// when that changes; the sums are relaxed atomics, so nothing waits on the data path. Another
// thread reads them, says in return how scarce memory is, and may ask to be woken at an amount.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>

namespace qanat {

enum class MemoryLevel : uint8_t {
  kPlenty,
  kScarce,  // who could hold more takes less: windows do not grow, reads are small
  kFull,    // and nobody new is taken
};

class alignas(64) MemoryMeter {
 public:
  uint64_t held() const { return held_.load(std::memory_order_relaxed); }
  MemoryLevel level() const { return level_.load(std::memory_order_relaxed); }
  bool scarce() const { return level() != MemoryLevel::kPlenty; }
  void SetLevel(MemoryLevel level) { level_.store(level, std::memory_order_relaxed); }

  // Called once when more than that is held, on the thread that took it, until set again. Before
  // anybody charges: what to call.
  void OnAlarm(std::function<void()> ring) { ring_ = std::move(ring); }
  void SetAlarm(uint64_t at) { alarm_.store(at, std::memory_order_release); }

 private:
  friend class MemoryCharge;
  static constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();
  void Add(size_t bytes) {
    const uint64_t now = held_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    if (now > alarm_.load(std::memory_order_relaxed) &&
        alarm_.exchange(kNever, std::memory_order_acquire) != kNever && ring_) {
      ring_();
    }
  }
  void Subtract(size_t bytes) { held_.fetch_sub(bytes, std::memory_order_relaxed); }

  std::atomic<uint64_t> held_{0};
  std::atomic<uint64_t> alarm_{kNever};
  std::atomic<MemoryLevel> level_{MemoryLevel::kPlenty};
  std::function<void()> ring_;
};

// What one holder has; nothing any more when it ends. The meters outlive it.
class MemoryCharge {
 public:
  explicit MemoryCharge(MemoryMeter& meter) : meter_(meter) {}
  ~MemoryCharge() { Set(0); }
  MemoryCharge(const MemoryCharge&) = delete;
  MemoryCharge& operator=(const MemoryCharge&) = delete;

  const MemoryMeter& meter() const { return meter_; }
  size_t bytes() const { return bytes_; }
  void Set(size_t bytes) {
    if (bytes == bytes_) return;
    if (bytes > bytes_) {
      meter_.Add(bytes - bytes_);
      if (owner_ != nullptr) owner_->Add(bytes - bytes_);
    } else {
      meter_.Subtract(bytes_ - bytes);
      if (owner_ != nullptr) owner_->Subtract(bytes_ - bytes);
    }
    bytes_ = bytes;
  }
  // Counts there as well from now on; nullptr: no longer.
  void ChargeTo(MemoryMeter* owner) {
    if (owner_ != nullptr) owner_->Subtract(bytes_);
    owner_ = owner;
    if (owner_ != nullptr) owner_->Add(bytes_);
  }

 private:
  MemoryMeter& meter_;
  MemoryMeter* owner_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace qanat
