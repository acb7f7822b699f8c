// SPDX-License-Identifier: Apache-2.0
#include "common/policy/policy.h"

#include "common/policy/match.h"

namespace qanat::policy {
namespace {

using model::PolicyAction;
using model::Reason;

// PeerAuthentication reaches the node proxy as DENY policies with these names (stock istiod).
bool IsFromPeerAuthentication(const model::Policy& policy) {
  return policy.name == "istio_converted_static_strict" ||
         policy.name.starts_with("converted_peer_authentication_");
}

Reason DenyReason(const model::Policy& policy, Truth truth, const Request& request) {
  if (truth == Truth::kUnknown) return Reason::kPolicyNotUnderstood;
  return !request.source && IsFromPeerAuthentication(policy) ? Reason::kMtlsRequired
                                                             : Reason::kPolicyDenied;
}

// The order in which verdicts are reached (stock ztunnel): dry-run DENY only noted; enforced DENY
// (of what has expired: any); names never received; no enforced ALLOW: allowed; an ALLOW that
// matches; else refused. `truth_of` is called once per policy that matters.
template <typename TruthOf>
Decision Decide(const PolicySet& set, const Request& request, TruthOf truth_of) {
  Decision decision;
  for (const model::PolicyPtr& policy : set.policies) {
    if (policy->action != PolicyAction::kDeny) continue;
    if (set.expired && !policy->dry_run) {
      decision.reason = Reason::kStaleState;
      decision.policy = policy->Key();
      return decision;
    }
    const Truth truth = truth_of(*policy);
    if (!Matched(truth, PolicyAction::kDeny)) continue;
    if (policy->dry_run) {
      if (decision.dry_run.empty()) decision.dry_run = policy->Key();
      continue;
    }
    decision.reason = DenyReason(*policy, truth, request);
    decision.policy = policy->Key();
    return decision;
  }
  if (!set.unknown.empty()) {
    decision.reason = Reason::kPolicyUnknown;
    decision.policy = set.unknown.front();
    return decision;
  }
  bool any_allow = false;
  bool any_unknown = false;
  for (const model::PolicyPtr& policy : set.policies) {
    if (policy->action != PolicyAction::kAllow || policy->dry_run) continue;
    any_allow = true;
    const Truth truth = truth_of(*policy);
    any_unknown = any_unknown || truth == Truth::kUnknown;
    if (!Matched(truth, PolicyAction::kAllow)) continue;
    decision.allowed = true;
    decision.policy = policy->Key();
    return decision;
  }
  decision.allowed = !any_allow;
  if (any_allow) {
    decision.reason = any_unknown ? Reason::kPolicyNotUnderstood : Reason::kPolicyNoAllow;
  }
  return decision;
}

}  // namespace

Decision Evaluate(const PolicySet& policies, const Request& request) {
  if (policies.policies.empty() && policies.unknown.empty()) return Decision{.allowed = true};
  const Seen seen(request);
  Silent silent;
  Matcher<Silent> matcher(seen, silent);
  return Decide(policies, request,
                [&](const model::Policy& policy) { return matcher.PolicyMatches(policy); });
}

// explain.cc needs the same order of verdicts.
Decision DecideFrom(const PolicySet& policies, const Request& request,
                    const std::vector<Truth>& truths) {
  return Decide(policies, request, [&](const model::Policy& policy) {
    for (size_t i = 0; i < policies.policies.size(); ++i) {
      if (policies.policies[i].get() == &policy) return truths[i];
    }
    return Truth::kUnknown;
  });
}

}  // namespace qanat::policy
