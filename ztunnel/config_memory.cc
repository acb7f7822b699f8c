// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/config_memory.h"

#include <fmt/format.h>

#include <charconv>
#include <string>
#include <string_view>
#include <utility>

namespace qanat::ztunnel {
namespace {

constexpr std::pair<std::string_view, uint64_t> kSuffixes[] = {
    {"", 1},          {"k", 1000},      {"M", 1000'000},  {"G", 1000'000'000},
    {"Ki", 1u << 10}, {"Mi", 1u << 20}, {"Gi", 1u << 30},
};

}  // namespace

uint64_t ReadBytes(EnvironmentReader& reader, const char* name, uint64_t least) {
  const char* value = reader.Value(name);
  if (value == nullptr) value = reader.Value(("ISTIO_META_" + std::string(name)).c_str());
  if (value == nullptr) return 0;
  const std::string_view text = value;
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
  for (const auto& [name_of, factor] : kSuffixes) {
    if (error != std::errc() || suffix != name_of) continue;
    if (number <= (uint64_t{1} << 52) / factor && number * factor >= least) {
      return number * factor;
    }
  }
  reader.Bad(name, fmt::format("an amount of memory as 512Mi or 1G, {} bytes at least", least));
  return 0;
}

}  // namespace qanat::ztunnel
