// SPDX-License-Identifier: Apache-2.0
// Private to common/hbone: the streams of a session by id. Ids only grow and a tunnel has a hundred
// at most as a rule, so a sorted vector is less memory and fewer cache misses than a tree; the
// stream asked for last is the usual answer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "common/hbone/stream.h"

namespace qanat::hbone {

class StreamTable {
 public:
  using Row = std::pair<uint32_t, std::shared_ptr<Stream>>;
  using Rows = std::vector<Row>;

  Stream* Find(uint32_t id) const {
    if (last_ < rows_.size() && rows_[last_].first == id) return rows_[last_].second.get();
    const size_t at = LowerBound(id);
    if (at == rows_.size() || rows_[at].first != id) return nullptr;
    last_ = at;
    return rows_[at].second.get();
  }
  void Insert(uint32_t id, std::shared_ptr<Stream> stream) {
    rows_.insert(rows_.begin() + static_cast<std::ptrdiff_t>(LowerBound(id)),
                 {id, std::move(stream)});
  }
  void Erase(uint32_t id) {
    const size_t at = LowerBound(id);
    if (at == rows_.size() || rows_[at].first != id) return;
    // The stream may be destroyed here, and what its user's callbacks hold with it: not while the
    // table is being changed.
    std::shared_ptr<Stream> keep = std::move(rows_[at].second);
    rows_.erase(rows_.begin() + static_cast<std::ptrdiff_t>(at));
  }
  size_t size() const { return rows_.size(); }
  const Rows& rows() const { return rows_; }
  // The first row with a greater id.
  size_t After(uint32_t id) const { return LowerBound(id + 1); }
  Rows TakeAll() { return std::exchange(rows_, {}); }

 private:
  size_t LowerBound(uint32_t id) const {
    auto at = std::lower_bound(rows_.begin(), rows_.end(), id,
                               [](const Row& row, uint32_t wanted) { return row.first < wanted; });
    return static_cast<size_t>(at - rows_.begin());
  }

  Rows rows_;
  mutable size_t last_ = 0;
};

}  // namespace qanat::hbone
