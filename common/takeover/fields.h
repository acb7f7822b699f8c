// SPDX-License-Identifier: Apache-2.0
// The state of an item as fields: {tag u16, length u32, bytes}, the tag's highest bit set where a
// reader that does not know the field must not take the item. Numbers are big endian. A field that
// is not critical is passed over by older readers, and has a default for newer ones. Pure.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/base/wiped_string.h"

namespace qanat::takeover {

inline constexpr uint16_t kCritical = 0x8000;

class FieldWriter {
 public:
  // With `tag | kCritical` for a critical one.
  void Bytes(uint16_t tag, std::string_view bytes);
  void Number(uint16_t tag, uint64_t value);
  WipedString Take() { return std::move(out_); }

 private:
  WipedString out_;
};

// Views into bytes that outlive it.
class Fields {
 public:
  // Fails on what is cut off, and on a critical field whose tag is not among `known` (tags without
  // the mark): the item stays with who wrote it.
  static Result<Fields> Parse(std::string_view bytes, std::span<const uint16_t> known);

  bool Has(uint16_t tag) const;
  // A state that ends early lacks its last ones.
  bool HasAll(std::initializer_list<uint16_t> tags) const;
  bool HasNumbers(std::initializer_list<uint16_t> tags) const;  // and each is one
  // The first one with that tag; "" or `otherwise` where there is none. A number of another length
  // than eight bytes is none.
  std::string_view Bytes(uint16_t tag) const;
  uint64_t Number(uint16_t tag, uint64_t otherwise = 0) const;
  std::vector<std::string_view> All(uint16_t tag) const;
  // The numbers of all fields with that tag.
  std::vector<uint64_t> Numbers(uint16_t tag) const;

 private:
  struct Field {
    uint16_t tag;  // without the mark
    std::string_view bytes;
  };
  std::vector<Field> fields_;
};

}  // namespace qanat::takeover
