// SPDX-License-Identifier: Apache-2.0
// What a map's keys and values look like, by the names of their fields: the kernel keeps this (BTF)
// with each map. So maps of two versions can be compared, and entries be carried from one to the
// other, without a table that says how.
#pragma once

#include <bpf/libbpf.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace qanat::bpf {

// A number somewhere in a key or value: "workers[1]", "ip4.word[0]"; "" when that is all there is.
struct Leaf {
  std::string path;
  uint32_t offset = 0, size = 0;  // bytes
  bool operator==(const Leaf&) const = default;
};

struct MapLayout {
  uint32_t type = 0, key_size = 0, value_size = 0, max_entries = 0, flags = 0;
  // None: the kernel was told of no types (it takes none for some kinds of maps).
  std::optional<std::vector<Leaf>> key, value;

  bool IsPerCpu() const;
  bool IsHash() const;
  bool IsArray() const;
  const Leaf* ValueLeaf(std::string_view path) const;
};

Result<MapLayout> LayoutOf(int map_fd);                                    // of a map in the kernel
Result<MapLayout> LayoutOf(const bpf_object* object, const bpf_map* map);  // of one to be made
// Nothing tells them apart: the same map serves both.
bool SameLayout(const MapLayout& a, const MapLayout& b);

// How bytes of one layout become bytes of another: fields of the same name keep their value, what
// is new is 0. An error names the field for which that loses something.
struct Span {
  uint32_t from, to, size;
};
Result<std::vector<Span>> Convert(const std::optional<std::vector<Leaf>>& from, uint32_t from_size,
                                  const std::optional<std::vector<Leaf>>& to, uint32_t to_size);

// Can entries be carried over at all? For this pair CopyEntries() works.
Status CheckConvertible(const MapLayout& from, const MapLayout& to);
// Every entry; `only_absent`: what is there already stays (hashes only). Entries that come and go
// meanwhile may be missed.
Status CopyEntries(int from_fd, const MapLayout& from, int to_fd, const MapLayout& to,
                   bool only_absent = false);

}  // namespace qanat::bpf
