// SPDX-License-Identifier: Apache-2.0
// The decision as a tree. Runs the same matcher as Evaluate(), with a tracer that writes down every
// condition, and puts its results through the same order of verdicts.
#include <utility>

#include "common/policy/match.h"
#include "common/policy/policy.h"

namespace qanat::policy {

Decision DecideFrom(const PolicySet& policies, const Request& request,
                    const std::vector<Truth>& truths);  // policy.cc

namespace {

constexpr std::string_view kNotUnderstood = "<not understood>";

std::string Show(const model::StringMatch& match) {
  switch (match.kind) {
    case model::StringMatch::Kind::kExact: return match.value;
    case model::StringMatch::Kind::kPrefix: return match.value + "*";
    case model::StringMatch::Kind::kSuffix: return "*" + match.value;
    case model::StringMatch::Kind::kPresence: return "*";
    case model::StringMatch::Kind::kNotUnderstood: break;
  }
  return std::string(kNotUnderstood);
}
std::string Show(const model::ServiceAccountMatch& match) {
  return match.understood ? match.ns + "/" + match.sa : std::string(kNotUnderstood);
}
std::string Show(const model::IpMatch& match) {
  return match.understood ? match.block.ToString() : std::string(kNotUnderstood);
}
std::string Show(const model::PortMatch& match) {
  return match.understood ? std::to_string(match.port) : std::string(kNotUnderstood);
}

std::string_view NameOf(Field field) {
  switch (field) {
    case Field::kNamespaces: return "namespaces";
    case Field::kPrincipals: return "principals";
    case Field::kServiceAccounts: return "service_accounts";
    case Field::kSourceIps: return "source_ips";
    case Field::kDestinationIps: return "destination_ips";
    case Field::kDestinationPorts: return "destination_ports";
    case Field::kNotUnderstood: return "not_understood";
  }
  return "";
}

std::string ShowSeen(Field field, const Seen& seen) {
  const Request& request = seen.request;
  switch (field) {
    case Field::kNamespaces: return request.source ? request.source->ns : "";
    case Field::kPrincipals: return seen.principal.value_or("");
    case Field::kServiceAccounts:
      return request.source ? request.source->ns + "/" + request.source->sa : "";
    case Field::kSourceIps: return request.source_ip.ToString();
    case Field::kDestinationIps: return request.destination_ip.ToString();
    case Field::kDestinationPorts: return std::to_string(request.destination_port);
    case Field::kNotUnderstood: return "";
  }
  return "";
}

struct Recorder {
  static constexpr bool kRecords = true;
  std::vector<RuleTrace> rules;

  void OpenRule() { rules.emplace_back(); }
  void CloseRule(Truth truth) { rules.back().truth = truth; }
  void OpenClause() { rules.back().clauses.emplace_back(); }
  void CloseClause(Truth truth) { rules.back().clauses.back().truth = truth; }
  void OpenMatch() { rules.back().clauses.back().matches.emplace_back(); }
  void CloseMatch(Truth truth, bool skipped) {
    rules.back().clauses.back().matches.back().truth = truth;
    rules.back().clauses.back().matches.back().skipped = skipped;
  }
  void Unknown() {
    Add({std::string(NameOf(Field::kNotUnderstood)),
         false,
         {std::string(kNotUnderstood)},
         "",
         Truth::kUnknown});
  }
  template <typename Values>
  void Condition(Field field, bool negated, const Values& values, const Seen& seen, Truth truth) {
    ConditionTrace trace{std::string(NameOf(field)), negated, {}, ShowSeen(field, seen), truth};
    for (const auto& value : values) trace.wanted.push_back(Show(value));
    Add(std::move(trace));
  }

 private:
  void Add(ConditionTrace trace) {
    rules.back().clauses.back().matches.back().conditions.push_back(std::move(trace));
  }
};

std::vector<ConditionTrace> FailedIn(const MatchTrace& match) {
  std::vector<ConditionTrace> failed;
  for (const ConditionTrace& condition : match.conditions) {
    if (condition.truth != Truth::kTrue) failed.push_back(condition);
  }
  return failed;
}

// What would have had to be different for the rule to match, taking in each clause the match that
// came closest. Nothing when it could not match at all (only empty matches).
std::optional<std::vector<ConditionTrace>> MissingFor(const RuleTrace& rule) {
  std::vector<ConditionTrace> missing;
  for (const ClauseTrace& clause : rule.clauses) {
    if (clause.truth == Truth::kTrue) continue;
    std::optional<std::vector<ConditionTrace>> best;
    for (const MatchTrace& match : clause.matches) {
      if (match.skipped) continue;
      auto failed = FailedIn(match);
      if (!best || failed.size() < best->size()) best = std::move(failed);
    }
    if (!best) return std::nullopt;
    missing.insert(missing.end(), best->begin(), best->end());
  }
  return missing;
}

std::optional<NearestAllow> FindNearest(const std::vector<PolicyTrace>& policies) {
  std::optional<NearestAllow> nearest;
  for (const PolicyTrace& trace : policies) {
    if (trace.policy->action != model::PolicyAction::kAllow || trace.policy->dry_run) continue;
    for (size_t i = 0; i < trace.rules.size(); ++i) {
      auto missing = MissingFor(trace.rules[i]);
      if (!missing) continue;
      if (nearest && nearest->missing.size() <= missing->size()) continue;
      nearest = NearestAllow{trace.policy->Key(), i, std::move(*missing)};
    }
  }
  return nearest;
}

}  // namespace

Explanation Explain(const PolicySet& policies, const Request& request) {
  Explanation out;
  out.unknown = policies.unknown;
  const Seen seen(request);
  std::vector<Truth> truths;
  for (const model::PolicyPtr& policy : policies.policies) {
    Recorder recorder;
    Matcher<Recorder> matcher(seen, recorder);
    const Truth truth = matcher.PolicyMatches(*policy);
    truths.push_back(truth);
    PolicyTrace trace{policy, std::move(recorder.rules), Matched(truth, policy->action)};
    for (RuleTrace& rule : trace.rules) rule.matched = Matched(rule.truth, policy->action);
    out.policies.push_back(std::move(trace));
  }
  out.decision = DecideFrom(policies, request, truths);
  std::vector<PolicyTrace> ordered;  // DENY is looked at before ALLOW
  for (const auto action : {model::PolicyAction::kDeny, model::PolicyAction::kAllow}) {
    for (PolicyTrace& trace : out.policies) {
      if (trace.policy != nullptr && trace.policy->action == action) {
        ordered.push_back(std::move(trace));
      }
    }
  }
  out.policies = std::move(ordered);
  if (out.decision.reason == model::Reason::kPolicyNoAllow ||
      (out.decision.reason == model::Reason::kPolicyNotUnderstood && out.decision.policy.empty())) {
    out.nearest_allow = FindNearest(out.policies);
  }
  return out;
}

}  // namespace qanat::policy
