// SPDX-License-Identifier: Apache-2.0
// What a TLS 1.3 connection is after its handshake: the two traffic secrets and how many records
// each has protected. Values for a hand-over of live connections; whoever holds one holds the
// connection, and only one holder may go on sealing: the same (secret, sequence number) must never
// protect two records.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace qanat::tls {

// A traffic secret (at most a SHA-384 hash). Overwritten when it goes, moved from or replaced.
class Secret {
 public:
  static constexpr size_t kMax = 48;

  Secret() = default;
  explicit Secret(std::span<const uint8_t> bytes);
  ~Secret();
  Secret(const Secret& other);
  Secret& operator=(const Secret& other);
  Secret(Secret&& other) noexcept;
  Secret& operator=(Secret&& other) noexcept;

  std::span<const uint8_t> bytes() const { return {bytes_, size_}; }
  bool empty() const { return size_ == 0; }
  void Clear();

 private:
  uint8_t bytes_[kMax] = {};
  uint8_t size_ = 0;
};

struct TlsState {
  bool server = false;
  uint16_t cipher = 0;  // TLS 1.3 cipher suite: 0x1301, 0x1302 or 0x1303
  Secret read_secret;
  Secret write_secret;
  uint64_t read_sequence = 0;   // of the next record
  uint64_t write_sequence = 0;  // of the next record
  bool key_update_owed = false;
  std::vector<uint8_t> handshake;  // the beginning of a message that came in part
};

}  // namespace qanat::tls
