// SPDX-License-Identifier: Apache-2.0
// Lines from one thread to another without a lock: one writes, one reads, and what does not fit is
// refused. When all has been read it begins at the start again, so that no more of its memory is
// touched than ever waited.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

namespace qanat::log {

class LineRing {
 public:
  // Rounded up to a power of two.
  explicit LineRing(size_t bytes)
      : size_(std::bit_ceil(bytes)), bytes_(std::make_unique_for_overwrite<char[]>(size_)) {}
  LineRing(const LineRing&) = delete;
  LineRing& operator=(const LineRing&) = delete;

  size_t size() const { return size_; }

  // The writer. How many bytes wait now; 0: there is no room.
  size_t Put(std::string_view line) {
    const size_t need = kLength + Padded(line.size());
    const size_t read = read_.load(std::memory_order_acquire);
    size_t at = written_.load(std::memory_order_relaxed);
    size_t first = std::max(read, start_.load(std::memory_order_relaxed));
    if (at == read && Index(at) != 0) {
      at = first = at - Index(at) + size_;
      start_.store(at, std::memory_order_relaxed);
    }
    const size_t tail = size_ - Index(at);  // up to the end of the memory
    const size_t skipped = tail < need ? tail : 0;
    if (line.size() >= kSkip || at - first + skipped + need > size_) return 0;
    if (skipped > 0) {
      PutLength(at, kSkip);
      at += skipped;
    }
    PutLength(at, static_cast<uint32_t>(line.size()));
    std::memcpy(&bytes_[Index(at) + kLength], line.data(), line.size());
    written_.store(at + need, std::memory_order_release);
    return at + need - first;
  }

  // The reader: appends all lines that wait, each with its newline.
  void Take(std::string& out) {
    const size_t end = written_.load(std::memory_order_acquire);
    size_t at = read_.load(std::memory_order_relaxed);
    if (at == end) return;
    at = std::max(at, start_.load(std::memory_order_relaxed));
    while (at != end) {
      uint32_t length;
      std::memcpy(&length, &bytes_[Index(at)], kLength);
      if (length == kSkip) {
        at += size_ - Index(at);
        continue;
      }
      out.append(&bytes_[Index(at) + kLength], length).push_back('\n');
      at += kLength + Padded(length);
    }
    read_.store(at, std::memory_order_release);
  }

 private:
  static constexpr size_t kLength = sizeof(uint32_t);  // before each line
  static constexpr uint32_t kSkip = ~uint32_t{0};      // in its place: go on at the start
  static size_t Padded(size_t bytes) { return (bytes + kLength - 1) / kLength * kLength; }
  size_t Index(size_t position) const { return position & (size_ - 1); }
  void PutLength(size_t at, uint32_t length) { std::memcpy(&bytes_[Index(at)], &length, kLength); }

  const size_t size_;
  const std::unique_ptr<char[]> bytes_;
  // Bytes ever, those that were skipped included.
  alignas(64) std::atomic<size_t> written_{0};
  std::atomic<size_t> start_{0};  // there is nothing between read_ and here; said by written_
  alignas(64) std::atomic<size_t> read_{0};
};

}  // namespace qanat::log
