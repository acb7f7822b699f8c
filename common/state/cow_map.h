// SPDX-License-Identifier: Apache-2.0
// A hash map in shards that are copied when first written after a snapshot was taken. The writer
// (one thread) keeps a CowMap and hands out Freeze() copies; a copy costs kShards pointers, and a
// small update after it copies only the shards that it touches.
#pragma once

#include <array>
#include <bitset>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "common/model/workload.h"

namespace qanat::state {

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

// An address in a network, and how it is looked up without a key being made.
struct AddressView {
  std::string_view network;
  net::IpAddress ip;
};
struct AddressKey {
  model::SharedText network;
  net::IpAddress ip;
  bool operator==(const AddressKey&) const = default;
  bool operator==(const AddressView& other) const {
    return network == other.network && ip == other.ip;
  }
};
struct AddressHash {
  using is_transparent = void;
  size_t operator()(const AddressView& a) const {
    return std::hash<std::string_view>{}(a.network) * 31 + net::HashValue(a.ip);
  }
  size_t operator()(const AddressKey& a) const { return (*this)(AddressView{a.network, a.ip}); }
};

// A workload under its own uid, which is not kept twice.
struct WorkloadKey {
  model::WorkloadPtr workload;
  bool operator==(const WorkloadKey& other) const { return workload->uid == other.workload->uid; }
  bool operator==(std::string_view uid) const { return workload->uid == uid; }
};
struct UidHash {
  using is_transparent = void;
  size_t operator()(std::string_view uid) const { return std::hash<std::string_view>{}(uid); }
  size_t operator()(const WorkloadKey& key) const { return (*this)(key.workload->uid); }
};

template <typename Key, typename Value, typename Hash>
class CowMap {
 public:
  using Shard = std::unordered_map<Key, Value, Hash, std::equal_to<>>;

  template <typename K>
  const Value* Find(const K& key) const {
    const auto* item = FindItem(key);
    return item == nullptr ? nullptr : &item->second;
  }
  // With the key that is in there.
  template <typename K>
  const std::pair<const Key, Value>* FindItem(const K& key) const {
    const auto& shard = shards_[ShardOf(key)];
    if (shard == nullptr) return nullptr;
    const auto it = shard->find(key);
    return it == shard->end() ? nullptr : &*it;
  }

  // The value for `key`, made if missing, in a shard that no snapshot shares.
  Value& Mutable(const Key& key) {
    auto [it, inserted] = Own(ShardOf(key)).try_emplace(key);
    if (inserted) ++size_;
    return it->second;
  }

  bool Erase(const Key& key) {
    if (Find(key) == nullptr) return false;
    Own(ShardOf(key)).erase(key);
    --size_;
    return true;
  }

  // A copy that never changes; later writes here copy what they touch.
  CowMap Freeze() {
    owned_.reset();
    return *this;
  }

  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const auto& shard : shards_) {
      if (shard == nullptr) continue;
      for (const auto& [key, value] : *shard) visit(key, value);
    }
  }

  size_t size() const { return size_; }

 private:
  static constexpr size_t kShards = 256;

  template <typename K>
  static size_t ShardOf(const K& key) {
    const size_t hash = Hash{}(key);
    return (hash ^ (hash >> 17) ^ (hash >> 41)) % kShards;
  }

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
