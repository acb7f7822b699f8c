// SPDX-License-Identifier: Apache-2.0
// For tests: a state taken apart, to be put together again with something missing or added.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/takeover/fields.h"

namespace qanat::takeover {

using RawFields = std::vector<std::pair<uint16_t, std::string>>;  // tags with their marks

inline RawFields TakeApart(std::string_view bytes) {
  RawFields out;
  while (bytes.size() >= 6) {
    const auto at = [&](size_t i) { return static_cast<size_t>(static_cast<uint8_t>(bytes[i])); };
    const auto tag = static_cast<uint16_t>(at(0) << 8 | at(1));
    const size_t size = at(2) << 24 | at(3) << 16 | at(4) << 8 | at(5);
    out.emplace_back(tag, bytes.substr(6, size));
    bytes.remove_prefix(6 + size);
  }
  return out;
}

inline std::string PutTogether(const RawFields& fields) {
  FieldWriter writer;
  for (const auto& [tag, bytes] : fields) writer.Bytes(tag, bytes);
  return std::string(std::string_view(writer.Take()));
}

// By its tag: the state without one of its critical fields, for each of them.
inline std::vector<std::pair<int, std::string>> Crippled(std::string_view whole) {
  std::vector<std::pair<int, std::string>> out;
  const RawFields all = TakeApart(whole);
  for (size_t i = 0; i < all.size(); ++i) {
    if ((all[i].first & kCritical) == 0) continue;
    RawFields less = all;
    less.erase(less.begin() + static_cast<std::ptrdiff_t>(i));
    out.emplace_back(all[i].first & ~kCritical, PutTogether(less));
  }
  return out;
}

}  // namespace qanat::takeover
