// SPDX-License-Identifier: Apache-2.0
// AuthorizationPolicies of one service port, as conditions in the three groups that are evaluated
// one after the other. Fail closed: what is not understood never matches in ALLOW and always
// matches in DENY, down to the single value.
#pragma once

#include <string>
#include <vector>

#include "controlplane/envoy/condition.h"
#include "controlplane/envoy/scope.h"

namespace qanat::controlplane {

// A rule matches when any permission and any principal matches.
struct CompiledRule {
  std::string name;
  std::vector<Condition> permissions;  // what is done: never empty
  std::vector<Condition> principals;   // who does it: never empty
};

struct CompiledGroup {
  bool present = false;  // some policy of this action is enforced, even one without rules
  std::vector<CompiledRule> rules;
  bool has_shadow = false;  // policies with istio.io/dry-run
  std::vector<CompiledRule> shadow_rules;
};

struct CompiledPolicies {
  CompiledGroup audit;
  CompiledGroup deny;
  CompiledGroup allow;
};

// What is fixed about the requests that the policies will see.
struct PolicyContext {
  bool http = true;  // else only what is known of a connection
  uint16_t port = 0;
  std::string trust_domain;
  std::vector<net::IpAddress> addresses;  // of the service
};

CompiledPolicies CompilePolicies(Scope& scope, const ServedPort& served, bool http);

// The part without a World, for tests: one policy into `out`.
void CompilePolicy(Scope* notices, const AuthorizationPolicy& policy, const PolicyContext& context,
                   CompiledPolicies& out);

}  // namespace qanat::controlplane
