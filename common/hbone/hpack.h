// SPDX-License-Identifier: Apache-2.0
// Header compression for HBONE (RFC 7541). Encoding never uses the dynamic table, so that an
// encoder has no state but "the first block has gone out"; decoding is nghttp2's inflater.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/hbone/types.h"

struct nghttp2_hd_inflater;

namespace qanat::hbone {

// What a decoder has learnt of its peer.
struct HpackTable {
  static constexpr uint32_t kMostBytes = 4096;  // the default of RFC 9113; we announce less
  uint32_t limit = kMostBytes;                  // as the peer set it last
  Headers entries;                              // oldest first
  uint32_t allowed = kMostBytes;                // what the peer has acknowledged, or the default
  bool update_owed = false;                     // the peer's next block has to begin with one
  bool operator==(const HpackTable&) const = default;
};

class HpackEncoder {
 public:
  explicit HpackEncoder(bool started = false) : started_(started) {}
  // The first block starts with a table size update to 0: valid whatever size the peer announces.
  std::string Encode(const Headers& headers);
  bool started() const { return started_; }

 private:
  bool started_ = false;
};

class HpackDecoder {
 public:
  explicit HpackDecoder(size_t max_list);
  ~HpackDecoder();
  enum class Outcome {
    kOk,
    kTooLarge,   // more than max_list (names + values + 32 each); the table is still in step
    kMalformed,  // COMPRESSION_ERROR: the connection cannot go on
    kBomb,       // far too large: ENHANCE_YOUR_CALM
  };
  // The peer has acknowledged that we hold at most so much (RFC 9113 4.3.1). If its table may be
  // larger now, its next block has to begin with an update (RFC 7541 4.2); between blocks only.
  void Allow(uint32_t table_size);
  // One complete header block. Pseudo headers keep their colon.
  Outcome Decode(std::span<const uint8_t> block, Headers& out);
  HpackTable Export() const;
  // Into a decoder that has decoded nothing yet.
  bool Import(const HpackTable& table);

 private:
  uint32_t Limit() const;

  size_t max_list_;
  nghttp2_hd_inflater* inflater_ = nullptr;
  uint32_t allowed_ = HpackTable::kMostBytes;
  bool update_owed_ = false;  // nghttp2 enforces it; this is for Export()
};

// RFC 9113 8.2.1: lower case token (or pseudo header), value without CR, LF, NUL.
bool ValidHeader(const Header& header);
// Fields that must not occur in HTTP/2 (RFC 9113 8.2.2).
bool ConnectionSpecific(const Header& header);

}  // namespace qanat::hbone
