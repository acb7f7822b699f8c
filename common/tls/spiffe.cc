// SPDX-License-Identifier: Apache-2.0
#include "common/tls/spiffe.h"

#include <array>

namespace qanat::tls {

std::optional<SpiffeParts> ParseSpiffe(std::string_view uri) {
  constexpr std::string_view kScheme = "spiffe://";
  if (!uri.starts_with(kScheme) || uri.size() > 2048) return std::nullopt;
  for (char c : uri) {
    if (c <= ' ' || c >= 0x7f || c == '%' || c == '?' || c == '#' || c == '\\') return std::nullopt;
  }
  std::string_view rest = uri.substr(kScheme.size());
  std::array<std::string_view, 5> part;
  for (size_t i = 0; i < part.size(); ++i) {
    size_t slash = rest.find('/');
    bool last = i + 1 == part.size();
    if (last != (slash == std::string_view::npos)) return std::nullopt;
    part[i] = rest.substr(0, slash);
    if (part[i].empty() || part[i] == "." || part[i] == "..") return std::nullopt;
    if (!last) rest.remove_prefix(slash + 1);
  }
  if (part[1] != "ns" || part[3] != "sa") return std::nullopt;
  return SpiffeParts{part[0], part[2], part[4]};
}

}  // namespace qanat::tls
