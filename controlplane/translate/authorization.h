// SPDX-License-Identifier: Apache-2.0
// World -> istio.security.Authorization resources: L4 policy for node proxies, from
// AuthorizationPolicy and PeerAuthentication. Pure.
//
// Fail closed, part by part. ALLOW: a part that is not understood, and a rule that needs HTTP,
// never matches. DENY: what is not understood or needs HTTP counts as matching, the rest of the
// rule still restricts it; an emptied clause is left out, since node proxies skip an empty Match
// and would let everything through.
#pragma once

#include <string>
#include <vector>

#include "controlplane/model/resource.h"
#include "controlplane/model/world.h"

namespace istio::security {
class Authorization;
}

namespace qanat::controlplane {

// What became of one AuthorizationPolicy at node proxies.
struct PolicyOutcome {
  bool sent = false;
  std::vector<std::string> http_attributes;  // found, not enforceable at L4 ("methods", "paths")
  std::vector<std::string> not_understood;   // field names and values
  size_t rules_dropped = 0;                  // of an ALLOW
  bool denies_all = false;                   // not understood at the top: all is denied
};

// False when nothing is sent (targetRefs, AUDIT). The caller owns `out`.
bool ConvertPolicy(const AuthorizationPolicy& policy, const MeshConfig& mesh,
                   istio::security::Authorization& out, PolicyOutcome& outcome);

// Names: "namespace/name".
ResourcesByName TranslateAuthorizations(const World& world);

// The sorted names that a workload lists: selector policies, then converted PeerAuthentication.
std::vector<std::string> PoliciesOf(const World& world, const Pod& pod);

// The mode that counts for a pod's ports that no port level names.
MtlsMode EffectiveMode(const World& world, const Pod& pod);

}  // namespace qanat::controlplane
