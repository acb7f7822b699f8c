// SPDX-License-Identifier: Apache-2.0
// The matcher itself, written once as templates: with the silent tracer it is the data path (stops
// as soon as the answer is known, allocates nothing), with the recording one it leaves the tree.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/policy/policy.h"

namespace qanat::policy {

constexpr Truth Not(Truth a) {
  return a == Truth::kUnknown ? a : (a == Truth::kTrue ? Truth::kFalse : Truth::kTrue);
}
constexpr Truth And(Truth a, Truth b) {
  if (a == Truth::kFalse || b == Truth::kFalse) return Truth::kFalse;
  return a == Truth::kUnknown || b == Truth::kUnknown ? Truth::kUnknown : Truth::kTrue;
}
constexpr Truth Or(Truth a, Truth b) { return Not(And(Not(a), Not(b))); }
constexpr Truth Of(bool b) { return b ? Truth::kTrue : Truth::kFalse; }

// The request with what is derived from it once.
struct Seen {
  explicit Seen(const Request& r) : request(r) {
    if (r.source) principal = r.source->Principal();
  }
  const Request& request;
  std::optional<std::string> principal;
};

inline Truth TestString(const model::StringMatch& want, std::string_view seen) {
  switch (want.kind) {
    case model::StringMatch::Kind::kExact: return Of(seen == want.value);
    case model::StringMatch::Kind::kPrefix: return Of(seen.starts_with(want.value));
    case model::StringMatch::Kind::kSuffix: return Of(seen.ends_with(want.value));
    case model::StringMatch::Kind::kPresence: return Of(!seen.empty());
    case model::StringMatch::Kind::kNotUnderstood: return Truth::kUnknown;
  }
  return Truth::kUnknown;
}

inline Truth TestPrincipal(const model::StringMatch& want, const Seen& seen) {
  if (want.kind == model::StringMatch::Kind::kNotUnderstood) return Truth::kUnknown;
  return seen.principal ? TestString(want, *seen.principal) : Truth::kFalse;
}
// Without an identity the namespace is "" (stock ztunnel).
inline Truth TestNamespace(const model::StringMatch& want, const Seen& seen) {
  return TestString(want, seen.request.source ? std::string_view(seen.request.source->ns) : "");
}
inline Truth TestAccount(const model::ServiceAccountMatch& want, const Seen& seen) {
  if (!want.understood) return Truth::kUnknown;
  const auto& source = seen.request.source;
  return Of(source && source->ns == want.ns && source->sa == want.sa);
}
inline Truth TestIp(const model::IpMatch& want, const net::IpAddress& seen) {
  return want.understood ? Of(want.block.Contains(seen)) : Truth::kUnknown;
}
inline Truth TestSourceIp(const model::IpMatch& want, const Seen& seen) {
  return TestIp(want, seen.request.source_ip);
}
inline Truth TestDestinationIp(const model::IpMatch& want, const Seen& seen) {
  return TestIp(want, seen.request.destination_ip);
}
inline Truth TestPort(const model::PortMatch& want, const Seen& seen) {
  return want.understood ? Of(want.port == seen.request.destination_port) : Truth::kUnknown;
}

enum class Field : uint8_t {
  kNamespaces,
  kPrincipals,
  kServiceAccounts,
  kSourceIps,
  kDestinationIps,
  kDestinationPorts,
  kNotUnderstood,
};

struct Silent {
  static constexpr bool kRecords = false;
  void OpenRule() {}
  void CloseRule(Truth) {}
  void OpenClause() {}
  void CloseClause(Truth) {}
  void OpenMatch() {}
  void CloseMatch(Truth, bool) {}
  template <typename Values>
  void Condition(Field, bool, const Values&, const Seen&, Truth) {}
  void Unknown() {}
};

template <typename Tracer>
class Matcher {
 public:
  Matcher(const Seen& seen, Tracer& tracer) : seen_(seen), tracer_(tracer) {}

  Truth PolicyMatches(const model::Policy& policy) {
    Truth any = Truth::kFalse;
    for (const model::Rule& rule : policy.rules) {
      any = Or(any, RuleMatches(rule));
      if (Done(any == Truth::kTrue)) break;
    }
    // What the policy as a whole says is unknown, so its result is, whatever the rules gave.
    return policy.not_understood ? Truth::kUnknown : any;
  }

 private:
  static bool Done(bool known) { return known && !Tracer::kRecords; }

  Truth RuleMatches(const model::Rule& rule) {
    tracer_.OpenRule();
    Truth all = Truth::kTrue;
    for (const model::Clause& clause : rule.clauses) {
      all = And(all, ClauseMatches(clause));
      if (Done(all == Truth::kFalse)) break;
    }
    // A field of a match is one more condition; how a field of a rule or of a clause would combine
    // with the rest, nobody can tell: a DENY that it may widen matches.
    if (rule.not_understood) all = Truth::kUnknown;
    tracer_.CloseRule(all);
    return all;
  }

  Truth ClauseMatches(const model::Clause& clause) {
    tracer_.OpenClause();
    Truth any = Of(clause.matches.empty());
    for (const model::Match& match : clause.matches) {
      if (match.empty()) {  // skipped, never true (stock ztunnel)
        tracer_.OpenMatch();
        tracer_.CloseMatch(Truth::kFalse, true);
        continue;
      }
      any = Or(any, MatchMatches(match));
      if (Done(any == Truth::kTrue)) break;
    }
    if (clause.not_understood) any = Truth::kUnknown;
    tracer_.CloseClause(any);
    return any;
  }

  Truth MatchMatches(const model::Match& match) {
    tracer_.OpenMatch();
    Truth all = Truth::kTrue;
    if (match.not_understood) {
      all = Truth::kUnknown;
      tracer_.Unknown();
    }
    // Cheapest first: ports, addresses, then strings.
    Both(all, Field::kDestinationPorts, match.destination_ports, match.not_destination_ports,
         TestPort);
    Both(all, Field::kSourceIps, match.source_ips, match.not_source_ips, TestSourceIp);
    Both(all, Field::kDestinationIps, match.destination_ips, match.not_destination_ips,
         TestDestinationIp);
    Both(all, Field::kServiceAccounts, match.service_accounts, match.not_service_accounts,
         TestAccount);
    Both(all, Field::kNamespaces, match.namespaces, match.not_namespaces, TestNamespace);
    Both(all, Field::kPrincipals, match.principals, match.not_principals, TestPrincipal);
    tracer_.CloseMatch(all, false);
    return all;
  }

  template <typename Values, typename Test>
  void Both(Truth& all, Field field, const Values& want, const Values& unwanted, Test test) {
    One(all, field, false, want, test);
    One(all, field, true, unwanted, test);
  }

  template <typename Values, typename Test>
  void One(Truth& all, Field field, bool negated, const Values& values, Test test) {
    if (values.empty() || Done(all == Truth::kFalse)) return;
    Truth any = Truth::kFalse;
    for (const auto& value : values) {
      any = Or(any, test(value, seen_));
      if (any == Truth::kTrue) break;
    }
    const Truth truth = negated ? Not(any) : any;
    tracer_.Condition(field, negated, values, seen_, truth);
    all = And(all, truth);
  }

  const Seen& seen_;
  Tracer& tracer_;
};

// Unknown never matches in ALLOW and always matches in DENY.
constexpr bool Matched(Truth truth, model::PolicyAction action) {
  return truth == Truth::kTrue ||
         (truth == Truth::kUnknown && action == model::PolicyAction::kDeny);
}

}  // namespace qanat::policy
