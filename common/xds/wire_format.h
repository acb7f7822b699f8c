// SPDX-License-Identifier: Apache-2.0
// The protobuf wire format by hand: just enough for a few fixed messages.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace qanat::xds {

class ProtoWriter {
 public:
  void Bytes(uint32_t field, std::string_view value) {
    Varint(field << 3 | 2);
    Varint(value.size());
    out_.append(value);
  }
  // proto3: empty is absent.
  void String(uint32_t field, std::string_view value) {
    if (!value.empty()) Bytes(field, value);
  }
  std::string Take() { return std::move(out_); }

 private:
  void Varint(uint64_t value) {
    while (value >= 0x80) {
      out_.push_back(static_cast<char>(value | 0x80));
      value >>= 7;
    }
    out_.push_back(static_cast<char>(value));
  }
  std::string out_;
};

// Walks the fields of a complete message. Unknown fields are for the caller to ignore.
class ProtoReader {
 public:
  explicit ProtoReader(std::string_view bytes) : bytes_(bytes) {}
  // False at the end or on malformed input: look at ok().
  bool Next() {
    if (!ok_ || bytes_.empty()) return false;
    uint64_t tag = 0;
    if (!Varint(tag) || tag >> 32 != 0 || tag >> 3 == 0) return Bad();
    field_ = static_cast<uint32_t>(tag >> 3);
    type_ = static_cast<uint32_t>(tag & 7);
    value_ = {};
    switch (type_) {
      case 0: return Varint(varint_) || Bad();
      case 1: return Take(8);
      case 2: {
        uint64_t size = 0;
        return Varint(size) ? Take(size) : Bad();
      }
      case 5: return Take(4);
      default: return Bad();  // groups are not used by anybody any more
    }
  }
  bool ok() const { return ok_; }
  uint32_t field() const { return field_; }
  bool is_bytes() const { return type_ == 2; }
  std::string_view value() const { return value_; }

 private:
  bool Bad() {
    ok_ = false;
    return false;
  }
  bool Take(uint64_t n) {
    if (n > bytes_.size()) return Bad();
    value_ = bytes_.substr(0, n);
    bytes_.remove_prefix(n);
    return true;
  }
  bool Varint(uint64_t& out) {
    out = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (bytes_.empty()) return false;
      const auto byte = static_cast<uint8_t>(bytes_.front());
      bytes_.remove_prefix(1);
      out |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  std::string_view bytes_;
  std::string_view value_;
  uint64_t varint_ = 0;
  uint32_t field_ = 0;
  uint32_t type_ = 0;
  bool ok_ = true;
};

}  // namespace qanat::xds
