// SPDX-License-Identifier: Apache-2.0
#include "common/hbone/hpack.h"

#include <nghttp2/nghttp2.h>

#include <algorithm>

namespace qanat::hbone {
namespace {

void PutInteger(std::string& out, uint8_t prefix_bits, uint8_t first, size_t value) {
  size_t limit = (size_t{1} << prefix_bits) - 1;
  if (value < limit) {
    out.push_back(static_cast<char>(first | value));
    return;
  }
  out.push_back(static_cast<char>(first | limit));
  for (value -= limit; value >= 128; value >>= 7) out.push_back(static_cast<char>(value | 128));
  out.push_back(static_cast<char>(value));
}

void PutString(std::string& out, std::string_view text) {
  PutInteger(out, 7, 0, text.size());
  out += text;
}

// Static table (RFC 7541 appendix A) indices of the names that HBONE sends.
size_t StaticName(std::string_view name) {
  if (name == ":authority") return 1;
  if (name == ":method") return 2;
  if (name == ":status") return 8;
  return 0;
}

}  // namespace

std::string HpackEncoder::Encode(const Headers& headers) {
  std::string out;
  size_t size = 1;
  for (const Header& header : headers) size += header.name.size() + header.value.size() + 8;
  out.reserve(size);
  if (!started_) out.push_back(0x20);
  started_ = true;
  for (const Header& header : headers) {
    if (header.name == ":status" && header.value == "200") {
      out.push_back(static_cast<char>(0x80 | 8));
      continue;
    }
    size_t index = StaticName(header.name);
    PutInteger(out, 4, 0, index);  // literal without indexing
    if (index == 0) PutString(out, header.name);
    PutString(out, header.value);
  }
  return out;
}

HpackDecoder::HpackDecoder(size_t max_list) : max_list_(max_list) {
  nghttp2_hd_inflate_new(&inflater_);
}

HpackDecoder::~HpackDecoder() { nghttp2_hd_inflate_del(inflater_); }

void HpackDecoder::Allow(uint32_t table_size) {
  if (inflater_ == nullptr) return;
  update_owed_ = update_owed_ || Limit() > table_size;
  allowed_ = table_size;
  nghttp2_hd_inflate_change_table_size(inflater_, table_size);
}

uint32_t HpackDecoder::Limit() const {
  return static_cast<uint32_t>(nghttp2_hd_inflate_get_max_dynamic_table_size(inflater_));
}

HpackDecoder::Outcome HpackDecoder::Decode(std::span<const uint8_t> block, Headers& out) {
  if (inflater_ == nullptr) return Outcome::kMalformed;
  update_owed_ = false;  // paid by this block, or it is malformed
  size_t list = 0;
  for (;;) {
    nghttp2_nv field;
    int flags = 0;
    ssize_t used = nghttp2_hd_inflate_hd2(inflater_, &field, &flags, block.data(), block.size(),
                                          /*in_final=*/1);
    if (used < 0) return Outcome::kMalformed;
    block = block.subspan(static_cast<size_t>(used));
    if ((flags & NGHTTP2_HD_INFLATE_EMIT) != 0) {
      list += field.namelen + field.valuelen + 32;
      if (list > 16 * max_list_) return Outcome::kBomb;
      if (list <= max_list_) {
        out.push_back({std::string(reinterpret_cast<const char*>(field.name), field.namelen),
                       std::string(reinterpret_cast<const char*>(field.value), field.valuelen)});
      }
    }
    if ((flags & NGHTTP2_HD_INFLATE_FINAL) != 0) {
      nghttp2_hd_inflate_end_headers(inflater_);
      break;
    }
    if ((flags & NGHTTP2_HD_INFLATE_EMIT) == 0 && block.empty()) return Outcome::kMalformed;
  }
  return list > max_list_ ? Outcome::kTooLarge : Outcome::kOk;
}

HpackTable HpackDecoder::Export() const {
  constexpr size_t kStatic = 61;  // entries that everybody has (RFC 7541 appendix A)
  HpackTable out;
  if (inflater_ == nullptr) return out;
  out.limit = Limit();
  out.allowed = allowed_;
  out.update_owed = update_owed_;
  for (size_t i = nghttp2_hd_inflate_get_num_table_entries(inflater_); i > kStatic; --i) {
    const nghttp2_nv* entry = nghttp2_hd_inflate_get_table_entry(inflater_, i);
    if (entry == nullptr) break;
    out.entries.push_back(
        {std::string(reinterpret_cast<const char*>(entry->name), entry->namelen),
         std::string(reinterpret_cast<const char*>(entry->value), entry->valuelen)});
  }
  return out;
}

// As the peer would have said it: in one block, then it acknowledged our setting, which is where an
// update is owed from.
bool HpackDecoder::Import(const HpackTable& table) {
  std::string block;
  PutInteger(block, 5, 0x20, table.update_owed ? HpackTable::kMostBytes : table.limit);
  for (const Header& entry : table.entries) {
    block.push_back(0x40);  // literal with indexing, new name
    PutString(block, entry.name);
    PutString(block, entry.value);
  }
  Headers ignored;
  const Outcome outcome =
      Decode({reinterpret_cast<const uint8_t*>(block.data()), block.size()}, ignored);
  Allow(table.allowed);
  return (outcome == Outcome::kOk || outcome == Outcome::kTooLarge) && Export() == table;
}

bool ValidHeader(const Header& header) {
  return nghttp2_check_header_name(reinterpret_cast<const uint8_t*>(header.name.data()),
                                   header.name.size()) != 0 &&
         nghttp2_check_header_value_rfc9113(reinterpret_cast<const uint8_t*>(header.value.data()),
                                            header.value.size()) != 0;
}

bool ConnectionSpecific(const Header& header) {
  constexpr std::string_view kForbidden[] = {"connection", "keep-alive", "proxy-connection",
                                             "transfer-encoding", "upgrade"};
  if (std::find(std::begin(kForbidden), std::end(kForbidden), header.name) !=
      std::end(kForbidden)) {
    return true;
  }
  return header.name == "te" && header.value != "trailers";
}

}  // namespace qanat::hbone
