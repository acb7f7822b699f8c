// SPDX-License-Identifier: Apache-2.0
// The one form of SPIFFE id that a mesh identity has: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT
// (stock ztunnel: exactly five segments, anything else is ignored). Pure text, no allocation.
#pragma once

#include <optional>
#include <string_view>

namespace qanat::tls {

struct SpiffeParts {
  std::string_view trust_domain;
  std::string_view ns;
  std::string_view service_account;
};

// The views point into `uri`. nullopt unless it has exactly the form above with no empty part and
// without characters that would make two texts mean one identity ('%', '?', '#', space, control).
std::optional<SpiffeParts> ParseSpiffe(std::string_view uri);

}  // namespace qanat::tls
