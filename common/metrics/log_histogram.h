// SPDX-License-Identifier: Apache-2.0
// How often a figure had which order of magnitude: one bucket for each power of two. A value.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace qanat::metrics {

class LogHistogram {
 public:
  static constexpr size_t kBuckets = 34;

  void Add(uint64_t value) {
    ++counts_[std::min<size_t>(static_cast<size_t>(std::bit_width(value)), kBuckets - 1)];
    ++count_;
  }
  // Another one's bucket.
  void AddBucket(size_t bucket, uint32_t count) {
    counts_[std::min(bucket, kBuckets - 1)] += count;
    count_ += count;
  }
  uint64_t count() const { return count_; }
  // Bucket 0 is the value 0; bucket k ends before 2^k.
  const std::array<uint32_t, kBuckets>& counts() const { return counts_; }
  // Below which that part of the values lies, as if each bucket were filled evenly; 0: none.
  double Quantile(double part) const {
    const double wanted = part * static_cast<double>(count_);
    double seen = 0;
    for (size_t k = 0; k < kBuckets; ++k) {
      if (counts_[k] == 0) continue;
      const double here = counts_[k];
      if (seen + here >= wanted) {
        if (k == 0) return 0;
        const double low = static_cast<double>(uint64_t{1} << (k - 1));
        return low + low * std::clamp((wanted - seen) / here, 0.0, 1.0);
      }
      seen += here;
    }
    return 0;
  }

 private:
  std::array<uint32_t, kBuckets> counts_{};
  uint64_t count_ = 0;
};

}  // namespace qanat::metrics
