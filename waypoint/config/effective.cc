// SPDX-License-Identifier: Apache-2.0
#include "waypoint/config/effective.h"

namespace qanat::waypoint {
namespace {

const RbacRules* OverrideOf(const FilterOverrides& overrides, const std::string& filter) {
  for (const auto& [name, rules] : overrides.rbac) {
    if (name == filter) return rules.get();
  }
  return nullptr;
}

std::string_view Trimmed(std::string_view text) {
  while (text.starts_with(' ') || text.starts_with('\t')) text.remove_prefix(1);
  while (text.ends_with(' ') || text.ends_with('\t')) text.remove_suffix(1);
  return text;
}

}  // namespace

Effective Resolve(const HttpChain& chain, const RouteTable* table, const HeadView& head,
                  uint64_t random, std::vector<RouteMiss>* misses) {
  Effective out;
  if (table) out.choice = table->Find(head, random, misses);
  // Most specific first.
  const FilterOverrides* levels[3] = {};
  size_t n = 0;
  if (out.choice.route) levels[n++] = &out.choice.route->overrides;
  if (out.choice.host) levels[n++] = &out.choice.host->overrides;
  if (table) levels[n++] = &table->overrides;
  for (const auto& [name, base] : chain.rbac) {
    const RbacRules* rules = base.get();
    for (size_t i = 0; i < n; ++i) {
      if (const RbacRules* o = OverrideOf(*levels[i], name)) {
        rules = o;
        break;
      }
    }
    out.rbac.push_back(rules);
  }
  if (chain.fault_filter) {
    out.fault = chain.fault.get();
    for (size_t i = 0; i < n; ++i) {
      if (levels[i]->fault) {
        out.fault = levels[i]->fault.get();
        break;
      }
    }
  }
  if (chain.cors_filter) {
    for (size_t i = 0; i < n; ++i) {
      if (levels[i]->cors) {
        out.cors = levels[i]->cors.get();
        break;
      }
    }
  }
  return out;
}

net::IpAddress RemoteAddress(const HttpChain& chain, const HeadView& head,
                             const net::IpAddress& peer) {
  // Envoy: with use_remote_address the connection counts, unless proxies in front are trusted:
  // then the entry that many from the right. Without it, x-forwarded-for is believed.
  if (chain.use_remote_address && chain.xff_trusted_hops == 0) return peer;
  std::string scratch;
  auto xff = head.Find("x-forwarded-for", scratch);
  if (!xff) return peer;
  std::string_view rest = *xff;
  uint32_t skip = chain.use_remote_address ? chain.xff_trusted_hops - 1 : chain.xff_trusted_hops;
  while (true) {
    size_t comma = rest.rfind(',');
    std::string_view entry =
        Trimmed(comma == std::string_view::npos ? rest : rest.substr(comma + 1));
    if (skip == 0) {
      auto ip = net::IpAddress::Parse(entry);
      return ip ? *ip : peer;
    }
    if (comma == std::string_view::npos) return peer;
    rest = rest.substr(0, comma);
    --skip;
  }
}

}  // namespace qanat::waypoint
