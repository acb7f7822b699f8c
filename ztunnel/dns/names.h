// SPDX-License-Identifier: Apache-2.0
// What the mesh itself answers to a DNS question of a pod. Pure: snapshot, client and its settings
// in, answer out. Source of the rules: the stock proxy's behaviour (matching of aliases and
// wildcards, visibility, networks, no NXDOMAIN for a known host); answers for the names of a
// headless service's pods are ours.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/net/address.h"
#include "common/state/snapshot.h"

namespace qanat::ztunnel::dns {

constexpr uint32_t kMeshTtl = 30;  // seconds, as the stock proxy

struct Scope {
  std::string_view cluster_domain;         // "cluster.local"
  const std::vector<std::string>& search;  // of the client, in order, lower case, no last dot
  bool ipv6 = true;                        // false: AAAA questions about the mesh are empty
  std::string_view preferred_ns = {};      // whose services win among equals of one name
};

struct Match {
  // kForward: the name is not the mesh's, or the type is none that the mesh knows of.
  enum class Kind : uint8_t { kForward, kAnswer } kind = Kind::kForward;
  // The host is one of the mesh: a name server that says NXDOMAIN is wrong.
  bool known = false;
  std::string alias;  // the name without the search domain; "" for none: a CNAME goes before
  std::vector<net::IpAddress> addresses;  // of the family asked for; none is an answer too
};

// `host` in lower case, without the last dot; `type` an RR type of class IN.
Match LookUp(const state::MeshSnapshot& snapshot, const model::Workload& client, const Scope& scope,
             std::string_view host, uint16_t type);

}  // namespace qanat::ztunnel::dns
