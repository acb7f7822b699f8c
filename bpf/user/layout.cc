// SPDX-License-Identifier: Apache-2.0
#include "bpf/user/layout.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>

#include "bpf/user/map.h"
#include "common/base/fd.h"

namespace qanat::bpf {
namespace {

using Btf = std::unique_ptr<btf, decltype(&btf__free)>;
constexpr size_t kMaxLeaves = 1 << 16;
constexpr int kMaxDepth = 16;

const btf_type* Strip(const btf* types, uint32_t& id) {
  const btf_type* type = btf__type_by_id(types, id);
  while (type && (btf_is_mod(type) || btf_is_typedef(type))) {
    id = type->type;
    type = btf__type_by_id(types, id);
  }
  return type;
}

// False: something that has no fixed place in bytes, or too much of it.
bool Flatten(const btf* types, uint32_t id, const std::string& path, uint32_t offset, int depth,
             std::vector<Leaf>& out) {
  const btf_type* type = Strip(types, id);
  if (!type || depth > kMaxDepth || out.size() > kMaxLeaves) return false;
  if (btf_is_composite(type)) {
    const btf_member* member = btf_members(type);
    for (uint16_t i = 0; i < btf_vlen(type); ++i, ++member) {
      if (btf_member_bitfield_size(type, i) != 0) return false;
      const std::string name = btf__name_by_offset(types, member->name_off);
      const std::string inner = path.empty() || name.empty() ? path + name : path + "." + name;
      if (!Flatten(types, member->type, inner, offset + btf_member_bit_offset(type, i) / 8,
                   depth + 1, out))
        return false;
    }
    return true;
  }
  if (btf_is_array(type)) {
    const auto* array = btf_array(type);
    const int64_t size = btf__resolve_size(types, array->type);
    if (size < 0) return false;
    for (uint32_t i = 0; i < array->nelems; ++i)
      if (!Flatten(types, array->type, fmt::format("{}[{}]", path, i),
                   offset + i * static_cast<uint32_t>(size), depth + 1, out))
        return false;
    return true;
  }
  const int64_t size = btf__resolve_size(types, id);
  if (size <= 0 || !(btf_is_int(type) || btf_is_any_enum(type) || btf_is_ptr(type))) return false;
  out.push_back({path, offset, static_cast<uint32_t>(size)});
  return true;
}

std::optional<std::vector<Leaf>> Describe(const btf* types, uint32_t id, uint32_t size) {
  std::vector<Leaf> out;
  if (!types || id == 0 || !Flatten(types, id, "", 0, 0, out)) return std::nullopt;
  for (const Leaf& leaf : out)
    if (leaf.offset + leaf.size > size) return std::nullopt;
  return out;
}

std::vector<char> Apply(const std::vector<Span>& spans, const char* from, size_t to_size) {
  std::vector<char> to(to_size, 0);
  for (const Span& span : spans) std::memcpy(to.data() + span.to, from + span.from, span.size);
  return to;
}

size_t Stride(uint32_t value_size) { return (value_size + 7) / 8 * 8; }

}  // namespace

bool MapLayout::IsPerCpu() const {
  return type == BPF_MAP_TYPE_PERCPU_ARRAY || type == BPF_MAP_TYPE_PERCPU_HASH;
}
bool MapLayout::IsHash() const {
  return type == BPF_MAP_TYPE_HASH || type == BPF_MAP_TYPE_PERCPU_HASH;
}
bool MapLayout::IsArray() const {
  return type == BPF_MAP_TYPE_ARRAY || type == BPF_MAP_TYPE_PERCPU_ARRAY;
}

const Leaf* MapLayout::ValueLeaf(std::string_view path) const {
  if (!value) return nullptr;
  auto it =
      std::find_if(value->begin(), value->end(), [&](const Leaf& l) { return l.path == path; });
  return it == value->end() ? nullptr : &*it;
}

Result<MapLayout> LayoutOf(int map_fd) {
  bpf_map_info info{};
  uint32_t length = sizeof info;
  if (bpf_obj_get_info_by_fd(map_fd, &info, &length) != 0) return FailErrno("map info");
  MapLayout out{info.type, info.key_size, info.value_size, info.max_entries, info.map_flags, {},
                {}};
  if (info.btf_id == 0) return out;
  const Btf types(btf__load_from_kernel_by_id(info.btf_id), btf__free);
  if (!types) return FailErrno(std::string("types of map ") + info.name);
  out.key = Describe(types.get(), info.btf_key_type_id, info.key_size);
  out.value = Describe(types.get(), info.btf_value_type_id, info.value_size);
  return out;
}

Result<MapLayout> LayoutOf(const bpf_object* object, const bpf_map* map) {
  MapLayout out{static_cast<uint32_t>(bpf_map__type(map)),
                bpf_map__key_size(map),
                bpf_map__value_size(map),
                bpf_map__max_entries(map),
                bpf_map__map_flags(map),
                {},
                {}};
  const btf* types = bpf_object__btf(object);
  out.key = Describe(types, bpf_map__btf_key_type_id(map), out.key_size);
  out.value = Describe(types, bpf_map__btf_value_type_id(map), out.value_size);
  return out;
}

bool SameLayout(const MapLayout& a, const MapLayout& b) {
  if (a.type != b.type || a.key_size != b.key_size || a.value_size != b.value_size ||
      a.max_entries != b.max_entries || a.flags != b.flags)
    return false;
  const auto same = [](const auto& x, const auto& y) { return !x || !y || *x == *y; };
  return same(a.key, b.key) && same(a.value, b.value);
}

Result<std::vector<Span>> Convert(const std::optional<std::vector<Leaf>>& from, uint32_t from_size,
                                  const std::optional<std::vector<Leaf>>& to, uint32_t to_size) {
  if (!from || !to) {
    if (from_size == to_size) return std::vector<Span>{{0, 0, to_size}};
    return Fail(Code::kFailedPrecondition,
                fmt::format("{} bytes became {}, and the kernel does not know what is in them",
                            from_size, to_size));
  }
  std::map<std::string_view, const Leaf*> known;
  for (const Leaf& leaf : *from) known[leaf.path] = &leaf;
  std::vector<Span> out;
  for (const Leaf& leaf : *to) {
    auto it = known.find(leaf.path);
    if (it == known.end()) continue;
    if (it->second->size > leaf.size)
      return Fail(Code::kFailedPrecondition, fmt::format("{} has {} bytes and would get {}",
                                                         leaf.path, it->second->size, leaf.size));
    // Little endian: a number keeps its value in a wider field.
    out.push_back({it->second->offset, leaf.offset, it->second->size});
  }
  return out;
}

Status CheckConvertible(const MapLayout& from, const MapLayout& to) {
  if (from.type != to.type) return Fail(Code::kFailedPrecondition, "it was a map of another kind");
  if (!to.IsHash() && !to.IsArray())
    return Fail(Code::kFailedPrecondition, "entries of such a map cannot be copied");
  auto key = Convert(from.key, from.key_size, to.key, to.key_size);
  if (!key) return Fail(key.error().Annotate("key"));
  auto value = Convert(from.value, from.value_size, to.value, to.value_size);
  if (!value) return Fail(value.error().Annotate("value"));
  return {};
}

Status CopyEntries(int from_fd, const MapLayout& from, int to_fd, const MapLayout& to,
                   bool only_absent) {
  QANAT_ASSIGN_OR_RETURN(const auto keys, Convert(from.key, from.key_size, to.key, to.key_size));
  QANAT_ASSIGN_OR_RETURN(const auto values,
                         Convert(from.value, from.value_size, to.value, to.value_size));
  const size_t copies = from.IsPerCpu() ? static_cast<size_t>(PossibleCpus()) : 1;
  const size_t from_stride = from.IsPerCpu() ? Stride(from.value_size) : from.value_size;
  const size_t to_stride = from.IsPerCpu() ? Stride(to.value_size) : to.value_size;
  std::vector<char> key(from.key_size), next(from.key_size), value(from_stride * copies);
  const void* at = nullptr;
  // A hash that changes meanwhile may begin the walk anew.
  const uint64_t limit = 2ull * from.max_entries + 16;
  for (uint64_t n = 0; n < limit && NextKeyRaw(from_fd, at, next.data()); ++n) {
    key = next;
    at = key.data();
    QANAT_ASSIGN_OR_RETURN(const bool found, LookupRaw(from_fd, key.data(), value.data()));
    if (!found) continue;
    const std::vector<char> new_key = Apply(keys, key.data(), to.key_size);
    if (to.IsArray()) {
      uint32_t index = 0;
      std::memcpy(&index, new_key.data(), sizeof index);
      if (index >= to.max_entries) continue;
    }
    std::vector<char> new_value;
    for (size_t i = 0; i < copies; ++i) {
      const auto one = Apply(values, value.data() + i * from_stride, to_stride);
      new_value.insert(new_value.end(), one.begin(), one.end());
    }
    Status done =
        UpdateRaw(to_fd, new_key.data(), new_value.data(), only_absent ? BPF_NOEXIST : BPF_ANY);
    if (!done && !(only_absent && done.error().sys_errno == EEXIST)) return done;
  }
  return {};
}

}  // namespace qanat::bpf
