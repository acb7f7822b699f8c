// SPDX-License-Identifier: Apache-2.0
// The same verdict as Evaluate(), with everything that was looked at on the way.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "waypoint/authz/rbac.h"

namespace qanat::waypoint {
namespace {

using Kind = Condition::Kind;

Truth And(Truth a, Truth b) {
  if (a == Truth::kFalse || b == Truth::kFalse) return Truth::kFalse;
  return a == Truth::kTrue && b == Truth::kTrue ? Truth::kTrue : Truth::kUnknown;
}

struct Leaf {
  std::string field, wanted, seen;
};

// istiod writes source.namespaces as a regex over the identity.
bool NamespaceRegex(const StringMatch& text, std::string& ns) {
  if (text.kind != StringMatch::Kind::kRegex) return false;
  std::string_view p = text.regex.pattern();
  constexpr std::string_view kHead = ".*/ns/", kTail = "/.*";
  if (!p.starts_with(kHead) || !p.ends_with(kTail) || p.size() <= kHead.size() + kTail.size()) {
    return false;
  }
  ns = std::string(p.substr(kHead.size(), p.size() - kHead.size() - kTail.size()));
  if (ns.ends_with(".*")) ns.replace(ns.size() - 2, 2, "*");
  return true;
}

std::string HeaderSeen(const Condition& c, const AuthzInput& input) {
  if (!input.head) return "(no HTTP request)";
  std::string scratch;
  auto seen = input.head->Find(c.header.name, scratch);
  return seen ? std::string(*seen) : std::string();
}

std::string WithoutScheme(std::string_view uri) {
  if (uri.starts_with("spiffe://")) uri.remove_prefix(9);
  return std::string(uri);
}

Leaf LeafOf(const Condition& c, const AuthzInput& input) {
  switch (c.kind) {
    case Kind::kAny: return {"any", "anything", ""};
    case Kind::kHeader: {
      std::string field = "request.headers[" + c.header.name + "]";
      if (c.header.name == ":method") field = "methods";
      if (c.header.name == ":authority" || c.header.name == "host") field = "hosts";
      if (c.header.name == ":path") field = "paths";
      std::string wanted = c.header.Describe().substr(c.header.name.size());
      if (wanted.starts_with('=')) wanted.erase(0, 1);
      return {field, wanted, HeaderSeen(c, input)};
    }
    case Kind::kUrlPath:
      return {"paths", c.text.Describe(),
              input.head ? std::string(input.head->path_only()) : "(no HTTP request)"};
    case Kind::kPathTemplate:
      return {"paths", c.text.value,
              input.head ? std::string(input.head->path_only()) : "(no HTTP request)"};
    case Kind::kIdentity: {
      std::string seen = WithoutScheme(input.identity);
      std::string ns;
      if (NamespaceRegex(c.text, ns)) {
        size_t from = seen.find("/ns/");
        if (from != std::string::npos) seen = seen.substr(from + 4);
        return {"namespaces", ns, seen.substr(0, seen.find('/'))};
      }
      return {"principals", WithoutScheme(c.text.Describe()), seen};
    }
    case Kind::kAuthenticated: return {"principals", "*", WithoutScheme(input.identity)};
    case Kind::kDestinationIp:
      return {"destination.ip", c.cidr.ToString(), input.destination.ip().ToString()};
    case Kind::kDestinationPort:
      return {"ports",
              c.port_high == c.port_low + 1 ? std::to_string(c.port_low)
                                            : fmt::format("{}-{}", c.port_low, c.port_high - 1),
              std::to_string(input.destination.port())};
    case Kind::kDirectSourceIp: return {"ipBlocks", c.cidr.ToString(), input.source_ip.ToString()};
    case Kind::kRemoteIp:
      return {"remoteIpBlocks", c.cidr.ToString(),
              (input.remote_ip.is_set() ? input.remote_ip : input.source_ip).ToString()};
    case Kind::kServerName:
      return {"connection.sni", c.text.Describe(), std::string(input.server_name)};
    case Kind::kNoToken:
      return {c.unknown_text, c.invert ? "absent" : "a validated token's value", "no token"};
    case Kind::kUnknown: return {"not understood", c.unknown_text, ""};
    case Kind::kAnd:
    case Kind::kOr:
    case Kind::kNot: break;
  }
  return {};
}

bool IsLeaf(const Condition& c) {
  return c.kind != Kind::kAnd && c.kind != Kind::kOr && c.kind != Kind::kNot;
}

std::string Text(const Condition& c, const AuthzInput& input) {
  if (c.kind == Kind::kNot) {
    return "not (" + (c.children.empty() ? std::string() : Text(c.children[0], input)) + ")";
  }
  if (IsLeaf(c)) {
    Leaf leaf = LeafOf(c, input);
    return leaf.field + "=" + leaf.wanted;
  }
  std::string out;
  for (const Condition& child : c.children) {
    if (!out.empty()) out += c.kind == Kind::kAnd ? " and " : " or ";
    out += IsLeaf(child) ? Text(child, input) : "(" + Text(child, input) + ")";
  }
  return out;
}

// Breaks a tree into conditions whose AND is the tree.
void Flatten(const Condition& c, bool negated, const AuthzInput& input,
             std::vector<ExplainedCondition>& out) {
  if (c.kind == Kind::kNot && !c.children.empty()) {
    return Flatten(c.children[0], !negated, input, out);
  }
  // not (a or b) is (not a) and (not b); shown as one condition when the fields agree, see below.
  if (c.kind == Kind::kAnd && !negated) {
    for (const Condition& child : c.children) Flatten(child, false, input, out);
    return;
  }
  ExplainedCondition e;
  e.negated = negated;
  e.truth = TruthOf(c, input);
  if (negated) e.truth = Negate(e.truth);
  if (IsLeaf(c)) {
    Leaf leaf = LeafOf(c, input);
    e.field = leaf.field;
    e.wanted = {leaf.wanted};
    e.seen = leaf.seen;
    out.push_back(std::move(e));
    return;
  }
  bool one_field = c.kind == Kind::kOr && !c.children.empty();
  for (const Condition& child : c.children) {
    if (!IsLeaf(child)) one_field = false;
    if (!one_field) break;
    Leaf leaf = LeafOf(child, input);
    if (!e.field.empty() && e.field != leaf.field) one_field = false;
    e.field = leaf.field;
    e.seen = leaf.seen;
    e.wanted.push_back(leaf.wanted);
  }
  if (!one_field) {
    e.field = "condition";
    e.seen.clear();
    e.wanted = {Text(c, input)};
  }
  out.push_back(std::move(e));
}

size_t Failing(const std::vector<ExplainedCondition>& conditions) {
  return static_cast<size_t>(
      std::count_if(conditions.begin(), conditions.end(),
                    [](const ExplainedCondition& c) { return c.truth != Truth::kTrue; }));
}

ExplainedClause ExplainClause(std::string part, const std::vector<Condition>& alternatives,
                              const AuthzInput& input) {
  ExplainedClause clause;
  clause.part = std::move(part);
  clause.alternatives = alternatives.size();
  bool first = true;
  for (size_t i = 0; i < alternatives.size(); ++i) {
    std::vector<ExplainedCondition> conditions;
    Flatten(alternatives[i], false, input, conditions);
    Truth truth = Truth::kTrue;
    for (const ExplainedCondition& c : conditions) truth = And(truth, c.truth);
    // Unknown is better than false: it is what the whole comes to when nothing is true.
    auto rank = [](Truth t) { return t == Truth::kTrue ? 2 : t == Truth::kUnknown ? 1 : 0; };
    bool better = rank(truth) > rank(clause.truth) ||
                  (truth == clause.truth && Failing(conditions) < Failing(clause.conditions));
    if (first || better) {
      clause.alternative = i;
      clause.conditions = std::move(conditions);
      clause.truth = truth;
    }
    first = false;
  }
  return clause;
}

}  // namespace

namespace {

ExplainedPolicy& PolicyEntry(AuthzExplanation& out, const std::string& name, const Rbac& rules) {
  for (ExplainedPolicy& p : out.policies) {
    if (p.name == name && p.action == rules.action && p.dry_run == rules.dry_run) return p;
  }
  out.policies.push_back({name, rules.action, rules.dry_run, false, {}});
  return out.policies.back();
}

// Adds what these rules looked at; returns false when they refuse, with the decision set.
bool ExplainRules(const Rbac& rules, const AuthzInput& input, AuthzExplanation& out, bool decided) {
  const bool allow = rules.action == Rbac::Action::kAllow;
  const RbacPolicy* matched = nullptr;
  Truth matched_truth = Truth::kFalse;
  std::optional<NearestAllow> nearest;
  for (const RbacPolicy& policy : rules.policies) {
    PolicyName name = ParsePolicyName(policy.name);
    ExplainedRule rule;
    rule.index = name.rule;
    rule.clauses.push_back(ExplainClause("to", policy.permissions, input));
    rule.clauses.push_back(ExplainClause("from", policy.principals, input));
    rule.truth = And(rule.clauses[0].truth, rule.clauses[1].truth);
    rule.matched = rule.truth == Truth::kTrue || (rule.truth == Truth::kUnknown && !allow);
    if (rule.matched && matched == nullptr) {
      matched = &policy;
      matched_truth = rule.truth;
    }
    if (allow && !rule.matched) {
      std::vector<ExplainedCondition> missing;
      for (const ExplainedClause& clause : rule.clauses) {
        std::copy_if(clause.conditions.begin(), clause.conditions.end(),
                     std::back_inserter(missing),
                     [](const ExplainedCondition& c) { return c.truth != Truth::kTrue; });
      }
      if (!nearest || missing.size() < nearest->missing.size()) {
        nearest = NearestAllow{name.policy, name.rule, std::move(missing)};
      }
    }
    ExplainedPolicy& entry = PolicyEntry(out, name.policy, rules);
    entry.matched = entry.matched || rule.matched;
    entry.rules.push_back(std::move(rule));
  }
  if (allow == (matched != nullptr)) {
    if (allow && !rules.dry_run && !decided) out.decision.policy = matched->name;
    return true;
  }
  if (decided) return true;  // shown only: an earlier refusal stands
  if (rules.dry_run) {
    if (out.decision.dry_run.empty()) {
      out.decision.dry_run = allow ? "ALLOW none" : "DENY " + matched->name;
    }
    return true;
  }
  out.decision.allowed = false;
  out.decision.policy = matched ? matched->name : std::string();
  if (allow) {
    out.decision.reason = model::Reason::kPolicyNoAllow;
    out.nearest_allow = std::move(nearest);
  } else {
    out.decision.reason = matched_truth == Truth::kUnknown ? model::Reason::kPolicyNotUnderstood
                                                           : model::Reason::kPolicyDenied;
  }
  return false;
}

}  // namespace

AuthzExplanation Explain(const RbacList& filters, const AuthzInput& input) {
  AuthzExplanation out;
  bool decided = false;
  for (const RbacRules* filter : filters) {
    for (const Rbac& rules : filter->rules) {
      if (rules.action == Rbac::Action::kLog) continue;
      if (!ExplainRules(rules, input, out, decided)) decided = true;
    }
  }
  return out;
}

}  // namespace qanat::waypoint
