// SPDX-License-Identifier: Apache-2.0
// Protobuf's wire format, written by hand: what these tests send must not depend on the library
// that decodes it, and must be able to say what no generated class can (unknown fields, enums,
// lengths).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace qanat::differential {

class Wire {
 public:
  Wire& Number(int field, uint64_t value) {
    Varint(static_cast<uint64_t>(field) << 3);
    Varint(value);
    return *this;
  }
  Wire& Bytes(int field, std::string_view bytes) {
    Varint(static_cast<uint64_t>(field) << 3 | 2);
    Varint(bytes.size());
    out_.append(bytes);
    return *this;
  }
  Wire& Message(int field, const Wire& message) { return Bytes(field, message.out_); }
  void Varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) out_.push_back(static_cast<char>(value | 0x80));
    out_.push_back(static_cast<char>(value));
  }
  const std::string& bytes() const { return out_; }

 private:
  std::string out_;
};

}  // namespace qanat::differential
