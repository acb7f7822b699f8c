// SPDX-License-Identifier: Apache-2.0
// Values found by a hash of what is in them: a table that keeps no keys, in two arrays without a
// piece of memory for each value. Whoever looks says which of the values with that hash is meant;
// several may be equal, and are met in the order in which they came. Open addressing with linear
// probing: from its home on a value takes the first free place, and no value is behind a gap. Made
// for keys that few have: the n-th with one hash is put behind n others, and so is looked for.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace qanat {

template <typename Value>
class HashIndex {
 public:
  // The first value with this hash of which `is` says that it is the one; null: there is none.
  template <typename Is>
  const Value* Find(uint32_t hash, const Is& is) const {
    const size_t at = PlaceOf(hash, is);
    return at == kNowhere ? nullptr : &values_[at];
  }
  // The same, to be changed in what is not its key. Good until the next Insert or Erase.
  template <typename Is>
  Value* Find(uint32_t hash, const Is& is) {
    const size_t at = PlaceOf(hash, is);
    return at == kNowhere ? nullptr : &values_[at];
  }

  void Insert(uint32_t hash, Value value) {
    if (size_ + 1 + hashes_.size() / 8 >= hashes_.size()) Grow();  // there is always a gap
    const uint32_t mark = Mark(hash);
    Place(mark, std::move(value), Home(mark));
    ++size_;
  }

  // The first that is the one; false: there is none.
  template <typename Is>
  bool Erase(uint32_t hash, const Is& is) {
    size_t gap = PlaceOf(hash, is);
    if (gap == kNowhere) return false;
    // What stands behind and is not at home moves up, so that the gap ends at one that is.
    for (size_t at = Next(gap); hashes_[at] != kFree; at = Next(at)) {
      if (Distance(Home(hashes_[at]), at) < Distance(gap, at)) continue;
      hashes_[gap] = hashes_[at];
      values_[gap] = std::move(values_[at]);
      gap = at;
    }
    hashes_[gap] = kFree;
    values_[gap] = Value();
    --size_;
    return true;
  }

  // Each with this hash, of which some may be others' that have the same.
  template <typename Visit>
  void ForEachWith(uint32_t hash, const Visit& visit) const {
    PlaceOf(hash, [&](const Value& value) {
      visit(value);
      return false;
    });
  }
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    for (size_t i = 0; i < hashes_.size(); ++i) {
      if (hashes_[i] != kFree) visit(values_[i]);
    }
  }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

 private:
  static constexpr uint32_t kFree = 0;
  static constexpr size_t kNowhere = SIZE_MAX;
  static constexpr size_t kLeast = 4;

  static uint32_t Mark(uint32_t hash) { return hash == kFree ? 1 : hash; }
  // In the order of the hashes, so that any number of places will do.
  size_t Home(uint32_t mark) const {
    return static_cast<size_t>(uint64_t{mark} * hashes_.size() >> 32);
  }
  size_t Next(size_t at) const { return at + 1 == hashes_.size() ? 0 : at + 1; }
  size_t Distance(size_t from, size_t to) const {
    return to >= from ? to - from : to + hashes_.size() - from;
  }

  template <typename Is>
  size_t PlaceOf(uint32_t hash, const Is& is) const {
    if (hashes_.empty()) return kNowhere;
    const uint32_t mark = Mark(hash);
    for (size_t at = Home(mark); hashes_[at] != kFree; at = Next(at)) {
      if (hashes_[at] == mark && is(values_[at])) return at;
    }
    return kNowhere;
  }

  // In the first free place from `at` on; returns which.
  size_t Place(uint32_t mark, Value value, size_t at) {
    while (hashes_[at] != kFree) at = Next(at);
    hashes_[at] = mark;
    values_[at] = std::move(value);
    return at;
  }

  // By a quarter: between 7 of 10 and 7 of 8 places are taken, and moving is cheap.
  void Grow() {
    const size_t places = std::max(kLeast, hashes_.size() + hashes_.size() / 4);
    const std::vector<uint32_t> hashes = std::exchange(hashes_, std::vector<uint32_t>(places));
    std::vector<Value> values = std::exchange(values_, std::vector<Value>(places));
    if (size_ == 0) return;
    // From a gap on: equal ones stay in their order. One goes behind the last one that was equal,
    // so that many of them are not walked past by each.
    size_t at = 0, last = 0;
    uint32_t last_mark = kFree;
    while (hashes[at] != kFree) ++at;
    for (size_t n = 0; n < hashes.size(); ++n) {
      if (const uint32_t mark = hashes[at]; mark != kFree) {
        last = Place(mark, std::move(values[at]), mark == last_mark ? Next(last) : Home(mark));
        last_mark = mark;
      }
      at = at + 1 == hashes.size() ? 0 : at + 1;
    }
  }

  std::vector<uint32_t> hashes_;
  std::vector<Value> values_;
  size_t size_ = 0;
};

}  // namespace qanat
