// SPDX-License-Identifier: Apache-2.0
#include "common/takeover/fields.h"

#include <algorithm>

namespace qanat::takeover {
namespace {

constexpr size_t kHead = 6;

template <typename T>
void Put(WipedString& out, T value) {
  for (int shift = static_cast<int>(sizeof(T)) * 8 - 8; shift >= 0; shift -= 8) {
    out.push_back(static_cast<char>(value >> shift & 0xff));
  }
}

template <typename T>
T Get(std::string_view bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value << 8 | static_cast<uint8_t>(bytes[i]));
  }
  return value;
}

bool AsNumber(std::string_view bytes, uint64_t& out) {
  if (bytes.size() != sizeof(uint64_t)) return false;
  out = Get<uint64_t>(bytes);
  return true;
}

}  // namespace

void FieldWriter::Bytes(uint16_t tag, std::string_view bytes) {
  Put(out_, tag);
  Put(out_, static_cast<uint32_t>(bytes.size()));
  out_.append(bytes);
}

void FieldWriter::Number(uint16_t tag, uint64_t value) {
  Put(out_, tag);
  Put(out_, static_cast<uint32_t>(sizeof value));
  Put(out_, value);
}

Result<Fields> Fields::Parse(std::string_view bytes, std::span<const uint16_t> known) {
  Fields out;
  while (!bytes.empty()) {
    if (bytes.size() < kHead) return Fail(Code::kInvalidArgument, "a field is cut off");
    const auto tag = Get<uint16_t>(bytes);
    const auto size = Get<uint32_t>(bytes.substr(2));
    bytes.remove_prefix(kHead);
    if (bytes.size() < size) return Fail(Code::kInvalidArgument, "a field is cut off");
    const auto plain = static_cast<uint16_t>(tag & ~kCritical);
    const bool understood = std::find(known.begin(), known.end(), plain) != known.end();
    if (!understood && (tag & kCritical) != 0) {
      return Fail(Code::kUnimplemented,
                  "field " + std::to_string(plain) + " is of another version and matters");
    }
    if (understood) out.fields_.push_back({plain, bytes.substr(0, size)});
    bytes.remove_prefix(size);
  }
  return out;
}

bool Fields::Has(uint16_t tag) const {
  return std::any_of(fields_.begin(), fields_.end(),
                     [tag](const Field& field) { return field.tag == tag; });
}

bool Fields::HasAll(std::initializer_list<uint16_t> tags) const {
  return std::all_of(tags.begin(), tags.end(), [this](uint16_t tag) { return Has(tag); });
}

bool Fields::HasNumbers(std::initializer_list<uint16_t> tags) const {
  return std::all_of(tags.begin(), tags.end(),
                     [this](uint16_t tag) { return Bytes(tag).size() == sizeof(uint64_t); });
}

std::string_view Fields::Bytes(uint16_t tag) const {
  for (const Field& field : fields_) {
    if (field.tag == tag) return field.bytes;
  }
  return {};
}

uint64_t Fields::Number(uint16_t tag, uint64_t otherwise) const {
  uint64_t value = 0;
  return AsNumber(Bytes(tag), value) ? value : otherwise;
}

std::vector<std::string_view> Fields::All(uint16_t tag) const {
  std::vector<std::string_view> out;
  for (const Field& field : fields_) {
    if (field.tag == tag) out.push_back(field.bytes);
  }
  return out;
}

std::vector<uint64_t> Fields::Numbers(uint16_t tag) const {
  std::vector<uint64_t> out;
  for (const std::string_view bytes : All(tag)) {
    uint64_t value = 0;
    if (AsNumber(bytes, value)) out.push_back(value);
  }
  return out;
}

}  // namespace qanat::takeover
