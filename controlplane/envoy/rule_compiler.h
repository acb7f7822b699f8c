// SPDX-License-Identifier: Apache-2.0
// One rule of an AuthorizationPolicy as conditions.
#pragma once

#include <string>

#include "controlplane/envoy/policy.h"

namespace qanat::controlplane {

// `notices` may be nullptr. What is not understood matches in DENY and CUSTOM, never in the others.
CompiledRule CompileRule(Scope* notices, const AuthorizationPolicy& policy,
                         const PolicyContext& context, const AuthorizationPolicy::Rule& rule,
                         std::string name);

}  // namespace qanat::controlplane
