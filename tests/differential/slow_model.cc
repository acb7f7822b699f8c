// SPDX-License-Identifier: Apache-2.0
#include "tests/differential/slow_model.h"

#include <cstdlib>
#include <set>

namespace qanat::differential {
namespace {

// Which bits of an address are set, one character each: the slow way to compare prefixes. IPv6 that
// maps IPv4 is IPv4 (one address has one representation).
std::string Bits(std::string bytes) {
  static const std::string kMapped("\0\0\0\0\0\0\0\0\0\0\xff\xff", 12);
  if (bytes.size() == 16 && bytes.compare(0, 12, kMapped) == 0) bytes.erase(0, 12);
  std::string out;
  for (const char c : bytes) {
    for (int bit = 7; bit >= 0; --bit) out.push_back((c >> bit & 1) != 0 ? '1' : '0');
  }
  return out;
}

// Reads one policy for one connection, with one choice for each part that is not understood. Always
// visits everything, so that the n-th guess is the same part in each reading.
class Reader {
 public:
  Reader(const Connection& connection, uint64_t choices) : c_(connection), choices_(choices) {}

  bool Holds(const Policy& policy) {
    bool any = false;
    for (const Rule& rule : policy.rules) any = Of(rule) | any;  // rules OR; none: never
    return policy.odd || policy.scope > 2 || policy.action > 1 ? Guess() : any;
  }
  size_t guesses() const { return guesses_; }

 private:
  bool Guess() { return (choices_ >> guesses_++ & 1) != 0; }

  bool Of(const Rule& rule) {  // clauses AND; none: everything
    bool all = true;
    for (const Clause& clause : rule.clauses) all = Of(clause) & all;
    return rule.odd ? Guess() : all;
  }

  bool Of(const Clause& clause) {  // matches OR; none: true
    bool any = clause.matches.empty();
    for (const Match& match : clause.matches) any = Of(match) | any;
    return clause.odd ? Guess() : any;
  }

  bool Of(const Match& match) {  // fields AND; no field at all: skipped, so never true
    if (match.fields.empty() && !match.odd) return false;
    bool all = true;
    for (const auto& [field, values] : match.fields) all = Of(field, values) & all;
    if (match.odd) all = Guess() & all;  // one more field, whatever it asks
    return all;
  }

  bool Of(int field, const std::vector<Value>& values) {
    if (field == kExtensions) return Guess();
    const bool negative = field % 2 == 0;
    bool any = false;
    for (const Value& value : values) any = Is(negative ? field - 1 : field, value) | any;
    return negative ? !any : any;
  }

  bool Is(int field, const Value& value) {
    switch (field) {
      case kNamespaces: {
        const std::string seen = c_.caller ? c_.caller->ns : "";
        return IsText(value, &seen);
      }
      case kPrincipals: {
        if (!c_.caller) return IsText(value, nullptr);
        const std::string seen =
            c_.caller->trust_domain + "/ns/" + c_.caller->ns + "/sa/" + c_.caller->sa;
        return IsText(value, &seen);
      }
      case kSourceIps: return IsIn(value, c_.source_ip);
      case kDestinationIps: return IsIn(value, c_.destination_ip);
      case kDestinationPorts:
        if (value.number > 65535) return Guess();
        return value.number == c_.port;
      case kServiceAccounts:
        if (value.odd || value.a.empty() || value.b.empty()) return Guess();
        return c_.caller && c_.caller->ns == value.a && c_.caller->sa == value.b;
      default: std::abort();
    }
  }

  bool IsText(const Value& value, const std::string* seen) {
    if (value.odd || value.kind == kNoKind) return Guess();
    if (seen == nullptr) return false;  // nobody: no value is theirs
    const std::string& want = value.a;
    switch (value.kind) {
      case kExact: return *seen == want;
      case kPrefix: return seen->substr(0, want.size()) == want;
      case kSuffix:
        return seen->size() >= want.size() && seen->substr(seen->size() - want.size()) == want;
      default: return !seen->empty();
    }
  }

  bool IsIn(const Value& block, const std::string& address) {
    if (block.odd || (block.a.size() != 4 && block.a.size() != 16)) return Guess();
    const std::string want = Bits(block.a), seen = Bits(address);
    uint32_t length = block.number;
    if (want.size() == 32 && block.a.size() == 16) {  // counted from the front of the IPv6 form
      if (length < 96) return Guess();
      length -= 96;
    }
    if (length > want.size()) return Guess();
    return want.size() == seen.size() && want.substr(0, length) == seen.substr(0, length);
  }

  const Connection& c_;
  const uint64_t choices_;
  size_t guesses_ = 0;
};

struct Ways {
  bool always = true, ever = false;
  size_t guesses = 0;
};

Ways TryAll(const Policy& policy, const Connection& connection) {
  Ways ways;
  for (uint64_t choices = 0; choices == 0 || choices >> ways.guesses == 0; ++choices) {
    Reader reader(connection, choices);
    const bool holds = reader.Holds(policy);
    ways.guesses = reader.guesses();
    ways.always = ways.always && holds;
    ways.ever = ways.ever || holds;
  }
  return ways;
}

}  // namespace

void World::PutPolicy(const Policy& policy) {
  ++now_;
  policies_[policy.Key()] = policy;
  removed_.erase(policy.Key());
}

void World::RemovePolicy(const std::string& key) {
  ++now_;
  if (policies_.erase(key) != 0) removed_[key] = now_;
}

void World::PutWorkload(const std::string& uid, const std::string& ns,
                        const std::vector<std::string>& policies) {
  workloads_[uid] = {ns, policies, ++now_};
}

World::Verdict World::Decide(const std::string& uid, const Connection& connection) const {
  const Workload& workload = workloads_.at(uid);
  Verdict verdict;
  std::set<std::string> here;
  for (const auto& [key, policy] : policies_) {
    // A scope that nobody knows may be the namespace's at least.
    const bool of_namespace = policy.scope == 1 || policy.scope > 2;
    if (policy.scope == 0 || (of_namespace && policy.ns == workload.ns)) here.insert(key);
  }
  for (const std::string& name : workload.policies) {
    if (policies_.contains(name)) {
      here.insert(name);
      continue;
    }
    // Removed after the workload was sent: the workload's own update is on its way.
    const auto gone = removed_.find(name);
    if (gone != removed_.end() && workload.when < gone->second) continue;
    verdict.unknown.push_back(name);
  }
  bool allow = false;
  for (const std::string& key : here) {
    const Policy& policy = policies_.at(key);
    if (policy.dry_run) continue;
    const Ways ways = TryAll(policy, connection);
    verdict.guesses += ways.guesses;
    if (policy.action == 0) {
      verdict.any_allow = true;
      allow = allow || ways.always;
    } else if (ways.ever) {  // an action that nobody knows may be one that refuses
      verdict.denied_by.push_back(key);
    }
  }
  verdict.allowed =
      verdict.unknown.empty() && verdict.denied_by.empty() && (allow || !verdict.any_allow);
  return verdict;
}

}  // namespace qanat::differential
