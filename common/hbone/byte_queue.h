// SPDX-License-Identifier: Apache-2.0
// Bytes in, bytes out, in order. Costs no memory while empty (an idle connection has several).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace qanat::hbone {

class ByteQueue {
 public:
  bool empty() const { return head_ == bytes_.size(); }
  size_t size() const { return bytes_.size() - head_; }
  size_t capacity() const { return bytes_.capacity(); }  // of memory, whatever is in it
  std::span<const uint8_t> front() const { return {bytes_.data() + head_, size()}; }

  void Append(const void* data, size_t size) {
    const auto* p = static_cast<const uint8_t*>(data);
    bytes_.insert(bytes_.end(), p, p + size);
  }
  void Append(std::span<const uint8_t> data) { Append(data.data(), data.size()); }
  void Append(std::string_view data) { Append(data.data(), data.size()); }

  void Consume(size_t count) {
    head_ += count;
    if (head_ == bytes_.size()) {
      Clear();
    } else if (head_ >= kCompact && head_ * 2 >= bytes_.size()) {
      const auto rest = bytes_.begin() + static_cast<std::ptrdiff_t>(head_);
      if (bytes_.capacity() / 4 > size()) {  // what was much more goes back
        std::vector<uint8_t>(rest, bytes_.end()).swap(bytes_);
      } else {
        bytes_.erase(bytes_.begin(), rest);
      }
      head_ = 0;
    }
  }
  void Clear() {
    head_ = 0;
    if (bytes_.capacity() > kKeep) {
      std::vector<uint8_t>().swap(bytes_);
    } else {
      bytes_.clear();
    }
  }

 private:
  static constexpr size_t kCompact = 16384;
  static constexpr size_t kKeep = 512;
  std::vector<uint8_t> bytes_;
  size_t head_ = 0;
};

}  // namespace qanat::hbone
