// SPDX-License-Identifier: Apache-2.0
#include "controlplane/envoy/policy.h"

#include <re2/re2.h>

#include <utility>

#include "controlplane/envoy/names.h"
#include "controlplane/envoy/rule_compiler.h"
#include "controlplane/envoy/text.h"

namespace qanat::controlplane {
namespace {

// Every place where a token may be, for a rule that cannot be checked: also the default ones, as a
// client that sends a token expects it to be verified.
Condition CarriesToken(const RequestAuthentication& jwt) {
  using Kind = TextMatch::Kind;
  std::vector<Condition> any = {
      Condition::Header("authorization", {Kind::kPrefix, "Bearer ", true})};
  const auto in_query = [&](const std::string& name) {
    any.push_back(Condition::Header(
        ":path", {Kind::kRegex, "[^?]*\\?(.*&)?" + re2::RE2::QuoteMeta(name) + "=.*"}));
  };
  in_query("access_token");
  for (const auto& rule : jwt.rules) {
    for (const auto& header : rule.from_headers) {
      if (IsHeaderName(header.name)) {
        any.push_back(Condition::Header(Lower(header.name), {Kind::kPresent, ""}));
      }
    }
    for (const std::string& name : rule.from_params) in_query(name);
    for (const std::string& name : rule.from_cookies) {
      any.push_back(Condition::Header(
          "cookie", {Kind::kRegex, "(.*; *)?" + re2::RE2::QuoteMeta(name) + "=.*"}));
    }
  }
  return Condition::Or(std::move(any));
}

CompiledRule Everything(std::string name) {
  return {std::move(name), {Condition::Any()}, {Condition::Any()}};
}

}  // namespace

void CompilePolicy(Scope* notices, const AuthorizationPolicy& policy, const PolicyContext& context,
                   CompiledPolicies& out) {
  using Action = AuthorizationPolicy::Action;
  if (!policy.unknown.empty()) {
    if (notices) {
      notices->Tell(policy.meta, 0, "UnsupportedValue",
                    policy.unknown.front() +
                        " is not understood: every request that the policy selects is denied");
    }
    out.deny.present = true;
    out.deny.rules.push_back(Everything(envoy_names::PolicyRule(policy.meta, "unknown")));
    return;
  }
  CompiledGroup* group = nullptr;
  switch (policy.action) {
    case Action::kAllow: group = &out.allow; break;
    case Action::kAudit: group = &out.audit; break;
    case Action::kCustom:
      if (notices) {
        notices->Tell(policy.meta, 0, "UnsupportedValue",
                      "action CUSTOM: external authorization is not available in this version: "
                      "requests that match the rules are denied");
      }
      group = &out.deny;
      break;
    case Action::kDeny: group = &out.deny; break;
  }
  (policy.dry_run ? group->has_shadow : group->present) = true;
  std::vector<CompiledRule>& rules = policy.dry_run ? group->shadow_rules : group->rules;
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    rules.push_back(CompileRule(notices, policy, context, policy.rules[i],
                                envoy_names::PolicyRule(policy.meta, std::to_string(i))));
  }
}

CompiledPolicies CompilePolicies(Scope& scope, const ServedPort& served, bool http) {
  CompiledPolicies compiled;
  const PolicyContext context{http, served.port->port, scope.world().mesh().trust_domain,
                              served.service->cluster_ips};
  for (const AuthorizationPolicy* policy :
       scope.world().WaypointPolicies(scope.waypoint(), served.service)) {
    CompilePolicy(&scope, *policy, context, compiled);
  }
  for (const RequestAuthentication* jwt :
       scope.world().WaypointJwtRules(scope.waypoint(), served.service)) {
    scope.Tell(jwt->meta, 0, "UnsupportedValue",
               "waypoints do not verify tokens in this version: requests that carry a token are "
               "refused, those without one are not");
    if (!http) continue;
    compiled.deny.present = true;
    CompiledRule rule =
        Everything("ns[" + jwt->meta.ns + "]-request-authentication[" + jwt->meta.name + "]");
    rule.principals = {CarriesToken(*jwt)};
    compiled.deny.rules.push_back(std::move(rule));
  }
  return compiled;
}

}  // namespace qanat::controlplane
