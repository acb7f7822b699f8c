// SPDX-License-Identifier: Apache-2.0
// A BPF map with types. Owns the map's fd; any thread may use it (the kernel serialises).
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"

namespace qanat::bpf {

// Untyped system calls; sizes are checked by Map below.
Result<Fd> OpenPinnedMap(const std::string& path, size_t key_size, size_t value_size);
Result<bool> LookupRaw(int fd, const void* key, void* value);  // false: no such entry
Status UpdateRaw(int fd, const void* key, const void* value, uint64_t flags);
Result<bool> EraseRaw(int fd, const void* key);  // false: there was none
bool NextKeyRaw(int fd, const void* key, void* next);
int PossibleCpus();

template <typename K, typename V>
class Map {
  static_assert(std::is_trivially_copyable_v<K> && std::is_trivially_copyable_v<V>);

 public:
  Map() = default;
  explicit Map(Fd fd) : fd_(std::move(fd)) {}
  // Fails unless key and value sizes are those of K and V.
  static Result<Map> OpenPinned(const std::string& path) {
    auto fd = OpenPinnedMap(path, sizeof(K), sizeof(V));
    if (!fd) return tl::unexpected(std::move(fd).error());
    return Map(std::move(*fd));
  }

  int fd() const { return fd_.get(); }
  bool valid() const { return fd_.valid(); }

  Result<std::optional<V>> Lookup(const K& key) const {
    V value{};
    auto found = LookupRaw(fd_.get(), &key, &value);
    if (!found) return tl::unexpected(std::move(found).error());
    return *found ? std::optional<V>(value) : std::nullopt;
  }
  Status Update(const K& key, const V& value, uint64_t flags = 0) {
    return UpdateRaw(fd_.get(), &key, &value, flags);
  }
  Result<bool> Erase(const K& key) { return EraseRaw(fd_.get(), &key); }

  // All keys at this moment; entries that come and go meanwhile may be missed.
  std::vector<K> Keys() const {
    std::vector<K> keys;
    K key{}, next{};
    const void* from = nullptr;
    while (NextKeyRaw(fd_.get(), from, &next)) {
      keys.push_back(next);
      key = next;
      from = &key;
      if (keys.size() > kMaxKeys) break;  // a map that changes under us can restart the walk
    }
    return keys;
  }

 private:
  static constexpr size_t kMaxKeys = 1 << 20;
  Fd fd_;
};

// A per-CPU array or hash: one value per possible CPU.
template <typename K, typename V>
class PerCpuMap {
  static_assert(std::is_trivially_copyable_v<V> && sizeof(V) % 8 == 0);

 public:
  PerCpuMap() = default;
  static Result<PerCpuMap> OpenPinned(const std::string& path) {
    auto fd = OpenPinnedMap(path, sizeof(K), sizeof(V));
    if (!fd) return tl::unexpected(std::move(fd).error());
    PerCpuMap map;
    map.fd_ = std::move(*fd);
    return map;
  }
  Result<std::vector<V>> Lookup(const K& key) const {
    std::vector<V> values(static_cast<size_t>(PossibleCpus()));
    auto found = LookupRaw(fd_.get(), &key, values.data());
    if (!found) return tl::unexpected(std::move(found).error());
    if (!*found) values.clear();
    return values;
  }
  Status Zero(const K& key) {
    std::vector<V> values(static_cast<size_t>(PossibleCpus()));
    return UpdateRaw(fd_.get(), &key, values.data(), 0);
  }

 private:
  Fd fd_;
};

}  // namespace qanat::bpf
