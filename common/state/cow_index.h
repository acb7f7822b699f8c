// SPDX-License-Identifier: Apache-2.0
// A HashIndex in shards that are copied when first written after a snapshot was taken. The writer
// (one thread) keeps a CowIndex and hands out Freeze() copies; a copy costs kShards pointers, and a
// small update after it copies only the shards that it touches.
#pragma once

#include <algorithm>
#include <array>
#include <bitset>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include "common/base/hash_index.h"
#include "common/net/address.h"

namespace qanat::state {

// Of the keys that values are found by.
inline uint64_t HashOf(std::string_view text) { return std::hash<std::string_view>()(text); }
inline uint64_t HashOf(std::string_view network, const net::IpAddress& ip) {
  return (HashOf(network) ^ net::HashValue(ip)) * 0x9e3779b97f4a7c15;
}
inline uint64_t HashOf(std::string_view ns, std::string_view hostname) {
  return (HashOf(ns) * 31 ^ HashOf(hostname)) * 0x9e3779b97f4a7c15;
}

// "ns/hostname"; one without a slash is no service's.
struct ServiceKey {
  explicit ServiceKey(std::string_view key)
      : ns(key.substr(0, key.find('/'))),
        hostname(key.substr(std::min(key.size(), ns.size() + 1))) {}
  std::string_view ns, hostname;
};

template <typename Value, size_t kShards>
class CowIndex {
 public:
  // The first value with this hash of which `is` says that it is the one; null: there is none.
  template <typename Is>
  const Value* Find(uint64_t hash, const Is& is) const {
    const auto& shard = shards_[ShardOf(hash)];
    return shard == nullptr ? nullptr : std::as_const(*shard).Find(InShard(hash), is);
  }
  // Each with this hash, of which some may be others' that have the same; in the order of coming.
  template <typename Visit>
  void ForEachWith(uint64_t hash, const Visit& visit) const {
    const auto& shard = shards_[ShardOf(hash)];
    if (shard != nullptr) shard->ForEachWith(InShard(hash), visit);
  }
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    for (const auto& shard : shards_) {
      if (shard != nullptr) shard->ForEach(visit);
    }
  }
  size_t size() const { return size_; }

  // In shards that no snapshot shares.
  void Insert(uint64_t hash, Value value) {
    Own(ShardOf(hash)).Insert(InShard(hash), std::move(value));
    ++size_;
  }
  template <typename Is>
  bool Erase(uint64_t hash, const Is& is) {
    if (Find(hash, is) == nullptr) return false;
    Own(ShardOf(hash)).Erase(InShard(hash), is);
    --size_;
    return true;
  }
  // In the place of the one that is there, or as a new one.
  template <typename Is>
  void Put(uint64_t hash, const Is& is, Value value) {
    auto& shard = Own(ShardOf(hash));
    if (Value* known = shard.Find(InShard(hash), is)) {
      *known = std::move(value);
      return;
    }
    shard.Insert(InShard(hash), std::move(value));
    ++size_;
  }

  // A copy that never changes; later writes here copy what they touch.
  CowIndex Freeze() {
    owned_.reset();
    return *this;
  }

 private:
  using Shard = HashIndex<Value>;

  // The low bits choose the shard, the high ones the place in it.
  static size_t ShardOf(uint64_t hash) { return (hash ^ hash >> 17) % kShards; }
  static uint32_t InShard(uint64_t hash) { return static_cast<uint32_t>(hash >> 32); }

  Shard& Own(size_t index) {
    auto& shard = shards_[index];
    if (!owned_[index]) {
      shard = shard == nullptr ? std::make_shared<Shard>() : std::make_shared<Shard>(*shard);
      owned_.set(index);
    }
    return *shard;
  }

  std::array<std::shared_ptr<Shard>, kShards> shards_;
  std::bitset<kShards> owned_;
  size_t size_ = 0;
};

}  // namespace qanat::state
