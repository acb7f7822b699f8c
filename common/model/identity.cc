// SPDX-License-Identifier: Apache-2.0
#include "common/model/identity.h"

#include <array>

namespace qanat::model {
namespace {
constexpr std::string_view kScheme = "spiffe://";
}

std::optional<Identity> Identity::Parse(std::string_view uri) {
  if (!uri.starts_with(kScheme)) return std::nullopt;
  uri.remove_prefix(kScheme.size());
  std::array<std::string_view, 5> parts;
  for (size_t i = 0; i < parts.size(); ++i) {
    const size_t slash = uri.find('/');
    const bool last = i + 1 == parts.size();
    if (last != (slash == std::string_view::npos)) return std::nullopt;
    parts[i] = uri.substr(0, slash);
    if (parts[i].empty()) return std::nullopt;
    if (!last) uri.remove_prefix(slash + 1);
  }
  if (parts[1] != "ns" || parts[3] != "sa") return std::nullopt;
  return Identity{std::string(parts[0]), std::string(parts[2]), std::string(parts[4])};
}

namespace {

std::string Join(std::string_view scheme, const Identity& id) {
  std::string out;
  out.reserve(scheme.size() + id.trust_domain.size() + id.ns.size() + id.sa.size() + 8);
  out.append(scheme).append(id.trust_domain);
  out.append("/ns/").append(id.ns).append("/sa/").append(id.sa);
  return out;
}

}  // namespace

std::string Identity::ToString() const { return Join(kScheme, *this); }

std::string Identity::Principal() const { return Join({}, *this); }

}  // namespace qanat::model
