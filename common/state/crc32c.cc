// SPDX-License-Identifier: Apache-2.0
#include "common/state/crc32c.h"

#include <array>

namespace qanat::state {
namespace {

// Eight bytes a step: tables[k][b] is what byte b does to the sum when k more bytes follow it.
using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables MakeTables() {
  constexpr uint32_t kReversed = 0x82f63b78;  // the polynomial, its bits in reverse
  Tables tables{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t sum = i;
    for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ ((sum & 1) != 0 ? kReversed : 0);
    tables[0][i] = sum;
  }
  for (size_t k = 1; k < tables.size(); ++k) {
    for (size_t i = 0; i < 256; ++i) {
      const uint32_t before = tables[k - 1][i];
      tables[k][i] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = MakeTables();

}  // namespace

uint32_t Crc32c(std::string_view bytes, uint32_t before) {
  uint32_t sum = ~before;
  const auto byte = [&](size_t at) { return static_cast<uint8_t>(bytes[at]); };
  while (bytes.size() >= 8) {
    const uint32_t low =
        sum ^ (byte(0) | static_cast<uint32_t>(byte(1)) << 8 |
               static_cast<uint32_t>(byte(2)) << 16 | static_cast<uint32_t>(byte(3)) << 24);
    sum = kTables[7][low & 0xff] ^ kTables[6][low >> 8 & 0xff] ^ kTables[5][low >> 16 & 0xff] ^
          kTables[4][low >> 24] ^ kTables[3][byte(4)] ^ kTables[2][byte(5)] ^ kTables[1][byte(6)] ^
          kTables[0][byte(7)];
    bytes.remove_prefix(8);
  }
  for (const char c : bytes) sum = (sum >> 8) ^ kTables[0][(sum ^ static_cast<uint8_t>(c)) & 0xff];
  return ~sum;
}

}  // namespace qanat::state
