// SPDX-License-Identifier: Apache-2.0
#include "waypoint/authz/rbac.h"

#include <charconv>

#include "waypoint/route/path_template.h"

namespace qanat::waypoint {
namespace {

Truth Bool(bool value) { return value ? Truth::kTrue : Truth::kFalse; }

Truth AnyOf(const std::vector<Condition>& list, const AuthzInput& input) {
  Truth out = Truth::kFalse;
  for (const Condition& c : list) {
    Truth t = TruthOf(c, input);
    if (t == Truth::kTrue) return t;
    if (t == Truth::kUnknown) out = t;
  }
  return out;
}

Truth PolicyTruth(const RbacPolicy& policy, const AuthzInput& input) {
  Truth to = AnyOf(policy.permissions, input);
  if (to == Truth::kFalse) return to;
  Truth from = AnyOf(policy.principals, input);
  if (from == Truth::kFalse) return from;
  return to == Truth::kTrue && from == Truth::kTrue ? Truth::kTrue : Truth::kUnknown;
}

}  // namespace

Truth Negate(Truth truth) {
  switch (truth) {
    case Truth::kFalse: return Truth::kTrue;
    case Truth::kTrue: return Truth::kFalse;
    case Truth::kUnknown: break;
  }
  return Truth::kUnknown;
}

Truth TruthOf(const Condition& c, const AuthzInput& input) {
  using Kind = Condition::Kind;
  switch (c.kind) {
    case Kind::kAny: return Truth::kTrue;
    case Kind::kAnd: {
      Truth out = Truth::kTrue;
      for (const Condition& child : c.children) {
        Truth t = TruthOf(child, input);
        if (t == Truth::kFalse) return t;
        if (t == Truth::kUnknown) out = t;
      }
      return out;
    }
    case Kind::kOr: return AnyOf(c.children, input);
    case Kind::kNot:
      return c.children.empty() ? Truth::kUnknown : Negate(TruthOf(c.children[0], input));
    case Kind::kHeader: return input.head ? Bool(c.header.Matches(*input.head)) : Truth::kUnknown;
    case Kind::kUrlPath:
      return input.head ? Bool(c.text.Matches(input.head->path_only())) : Truth::kUnknown;
    case Kind::kPathTemplate:
      return input.head ? Bool(MatchesPathTemplate(c.text.value, input.head->path_only()))
                        : Truth::kUnknown;
    case Kind::kIdentity: return Bool(!input.identity.empty() && c.text.Matches(input.identity));
    case Kind::kAuthenticated: return Bool(!input.identity.empty());
    case Kind::kDestinationIp:
      // A tunnel may name the service by host: then there is no address to compare with.
      if (!input.destination.ip().is_set()) return Truth::kUnknown;
      return Bool(c.cidr.Contains(input.destination.ip()));
    case Kind::kDestinationPort:
      return Bool(input.destination.port() >= c.port_low && input.destination.port() < c.port_high);
    case Kind::kDirectSourceIp: return Bool(c.cidr.Contains(input.source_ip));
    case Kind::kRemoteIp:
      return Bool(c.cidr.Contains(input.remote_ip.is_set() ? input.remote_ip : input.source_ip));
    case Kind::kServerName: return Bool(c.text.Matches(input.server_name));
    case Kind::kNoToken: return Bool(c.invert);
    case Kind::kUnknown: break;
  }
  return Truth::kUnknown;
}

namespace {

// False when the rules refuse: then `decision` is final.
bool Pass(const Rbac& filter, const AuthzInput& input, AuthzDecision& decision) {
  if (filter.action == Rbac::Action::kLog) return true;
  const bool allow = filter.action == Rbac::Action::kAllow;
  const RbacPolicy* matched = nullptr;
  Truth truth = Truth::kFalse;
  for (const RbacPolicy& policy : filter.policies) {
    truth = PolicyTruth(policy, input);
    if (truth == Truth::kTrue || (truth == Truth::kUnknown && !allow)) {
      matched = &policy;
      break;
    }
  }
  if (allow == (matched != nullptr)) {
    if (allow && !filter.dry_run) decision.policy = matched->name;
    return true;
  }
  if (filter.dry_run) {
    if (decision.dry_run.empty()) {
      decision.dry_run = allow ? "ALLOW none" : "DENY " + matched->name;
    }
    return true;
  }
  decision.allowed = false;
  decision.policy = matched ? matched->name : std::string();
  decision.reason = allow                      ? model::Reason::kPolicyNoAllow
                    : truth == Truth::kUnknown ? model::Reason::kPolicyNotUnderstood
                                               : model::Reason::kPolicyDenied;
  return false;
}

}  // namespace

AuthzDecision Evaluate(const RbacList& filters, const AuthzInput& input) {
  AuthzDecision decision;
  for (const RbacRules* filter : filters) {
    for (const Rbac& rules : filter->rules) {
      if (!Pass(rules, input, decision)) return decision;
    }
  }
  return decision;
}

PolicyName ParsePolicyName(std::string_view name) {
  // istiod: ns[NS]-policy[NAME]-rule[N]; also with a suffix for dry run.
  auto part = [&](std::string_view key, size_t from, std::string_view& out) {
    size_t at = name.find(key, from);
    if (at == std::string_view::npos) return std::string_view::npos;
    size_t begin = at + key.size();
    size_t end = name.find(']', begin);
    if (end == std::string_view::npos) return end;
    out = name.substr(begin, end - begin);
    return end;
  };
  std::string_view ns, policy, rule;
  if (!name.starts_with("ns[")) return {std::string(name), 0};
  size_t end = part("ns[", 0, ns);
  if (end != std::string_view::npos) end = part("-policy[", end, policy);
  if (end != std::string_view::npos) end = part("-rule[", end, rule);
  size_t index = 0;
  if (end == std::string_view::npos ||
      std::from_chars(rule.data(), rule.data() + rule.size(), index).ptr !=
          rule.data() + rule.size() ||
      rule.empty()) {
    return {std::string(name), 0};
  }
  return {std::string(ns) + "/" + std::string(policy), index};
}

}  // namespace qanat::waypoint
