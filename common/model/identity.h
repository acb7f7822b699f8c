// SPDX-License-Identifier: Apache-2.0
// Who a workload is: the three parts of its SPIFFE id. A plain value, compared part by part.
#pragma once

#include <compare>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace qanat::model {

struct Identity {
  std::string trust_domain;
  std::string ns;
  std::string sa;

  // Exactly spiffe://TD/ns/NS/sa/SA with no empty part; everything else is not an identity (stock
  // ztunnel: five segments, others ignored).
  static std::optional<Identity> Parse(std::string_view uri);
  std::string ToString() const;   // "spiffe://cluster.local/ns/shop/sa/frontend"
  std::string Principal() const;  // the same without "spiffe://", as policies write it
  bool empty() const { return trust_domain.empty() && ns.empty() && sa.empty(); }

  auto operator<=>(const Identity&) const = default;
};

}  // namespace qanat::model

template <>
struct std::hash<qanat::model::Identity> {
  size_t operator()(const qanat::model::Identity& id) const {
    const std::hash<std::string> h;
    return (h(id.trust_domain) * 31 + h(id.ns)) * 31 + h(id.sa);
  }
};
