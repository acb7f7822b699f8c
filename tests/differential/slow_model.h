// SPDX-License-Identifier: Apache-2.0
// What a policy means, the slow way, from the description of the protocol alone
// (istio.security.Authorization and its evaluation; design: not understood = closed). Nothing of
// common/policy, common/model or common/state is used or was followed: a policy here is a tree of
// field numbers and values, and a part that cannot be understood is tried as true *and* as false.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace qanat::differential {

// Field numbers of Match.
enum Field {
  kNamespaces = 1,
  kNotNamespaces = 2,
  kPrincipals = 3,
  kNotPrincipals = 4,
  kSourceIps = 5,
  kNotSourceIps = 6,
  kDestinationIps = 7,
  kNotDestinationIps = 8,
  kDestinationPorts = 9,
  kNotDestinationPorts = 10,
  kServiceAccounts = 11,
  kNotServiceAccounts = 12,
  kExtensions = 13,
};
// Field numbers of StringMatch; 0: none is set.
enum Kind { kNoKind = 0, kExact = 1, kPrefix = 2, kSuffix = 3, kPresence = 4 };

// One value of any field: a text (kind, a), a block (a = its bytes, number = its length), a port
// (number) or a service account (a = namespace, b = name).
struct Value {
  int kind = kNoKind;
  std::string a, b;
  uint32_t number = 0;
  bool odd = false;  // carries a field number that nobody knows
};
struct Match {
  std::map<int, std::vector<Value>> fields;
  bool odd = false;
};
struct Clause {
  std::vector<Match> matches;
  bool odd = false;
};
struct Rule {
  std::vector<Clause> clauses;
  bool odd = false;
};
struct Policy {
  std::string ns, name;
  int scope = 0;   // 0 global, 1 namespace, 2 selector; others: not known
  int action = 0;  // 0 allow, 1 deny; others: not known
  std::vector<Rule> rules;
  bool dry_run = false;
  bool odd = false;
  std::string Key() const { return ns + "/" + name; }
};

struct Caller {
  std::string trust_domain, ns, sa;
};
struct Connection {
  std::optional<Caller> caller;           // none: plaintext
  std::string source_ip, destination_ip;  // 4 or 16 bytes
  uint16_t port = 0;
};

// Everything that the control plane said in one stream, in order.
class World {
 public:
  struct Workload {
    std::string ns;
    std::vector<std::string> policies;
    uint64_t when = 0;
  };
  void PutPolicy(const Policy& policy);
  void RemovePolicy(const std::string& key);
  void PutWorkload(const std::string& uid, const std::string& ns,
                   const std::vector<std::string>& policies);

  struct Verdict {
    bool allowed = false;
    std::vector<std::string> denied_by;  // keys of DENY policies that match
    std::vector<std::string> unknown;    // names that were never received
    bool any_allow = false;              // an ALLOW policy is in force here
    size_t guesses = 0;                  // parts that had to be tried both ways
  };
  Verdict Decide(const std::string& uid, const Connection& connection) const;
  const std::map<std::string, Policy>& policies() const { return policies_; }

 private:
  std::map<std::string, Policy> policies_;
  std::map<std::string, uint64_t> removed_;  // key -> when
  std::map<std::string, Workload> workloads_;
  uint64_t now_ = 0;
};

}  // namespace qanat::differential
