// SPDX-License-Identifier: Apache-2.0
// An L4 authorization policy, decoded. What could not be understood is kept as such, so that the
// engine (common/policy) can fail closed on exactly that part instead of dropping it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/net/address.h"

namespace qanat::model {

struct StringMatch {
  enum class Kind : uint8_t { kExact, kPrefix, kSuffix, kPresence, kNotUnderstood };
  Kind kind = Kind::kNotUnderstood;
  std::string value;
  bool operator==(const StringMatch&) const = default;
};

struct IpMatch {
  net::Cidr block;
  bool understood = false;
  bool operator==(const IpMatch&) const = default;
};

struct PortMatch {
  uint16_t port = 0;
  bool understood = false;
  bool operator==(const PortMatch&) const = default;
};

struct ServiceAccountMatch {
  std::string ns, sa;
  bool understood = false;
  bool operator==(const ServiceAccountMatch&) const = default;
};

// Fields are ANDed, the values of one field are ORed; not_* must match none.
struct Match {
  std::vector<StringMatch> namespaces, not_namespaces;
  std::vector<StringMatch> principals, not_principals;
  std::vector<ServiceAccountMatch> service_accounts, not_service_accounts;
  std::vector<IpMatch> source_ips, not_source_ips;
  std::vector<IpMatch> destination_ips, not_destination_ips;
  std::vector<PortMatch> destination_ports, not_destination_ports;
  bool not_understood = false;  // an unknown field or an extension: one more condition, unknown

  bool empty() const;  // no condition at all: such a match is skipped (stock ztunnel)
  bool operator==(const Match&) const = default;
};

struct Clause {  // matches are ORed; none = true
  std::vector<Match> matches;
  bool not_understood = false;
  bool operator==(const Clause&) const = default;
};

struct Rule {  // clauses are ANDed; none = true
  std::vector<Clause> clauses;
  bool not_understood = false;
  bool operator==(const Rule&) const = default;
};

enum class PolicyScope : uint8_t { kGlobal, kNamespace, kSelector };
enum class PolicyAction : uint8_t { kAllow, kDeny };
std::string_view ToString(PolicyScope scope);    // "GLOBAL", ...
std::string_view ToString(PolicyAction action);  // "ALLOW", "DENY"

struct Policy {
  std::string name, ns;
  PolicyScope scope = PolicyScope::kGlobal;
  PolicyAction action = PolicyAction::kAllow;
  std::vector<Rule> rules;  // ORed; none = never matches
  bool dry_run = false;
  bool not_understood = false;        // unknown field, scope or action of the policy itself
  std::vector<std::string> problems;  // for people: which parts are not understood and why

  std::string Key() const { return ns + "/" + name; }
  bool operator==(const Policy&) const = default;
};
using PolicyPtr = std::shared_ptr<const Policy>;

}  // namespace qanat::model
