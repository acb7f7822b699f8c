// SPDX-License-Identifier: Apache-2.0
#include "controlplane/ca/caller.h"

#include <fmt/format.h>

namespace qanat::controlplane {
namespace {

Status CheckPod(const World& world, std::string_view uid, std::string_view ns,
                std::string_view name, std::string_view account, std::string_view node) {
  const Pod* pod = world.FindPodByUid(uid);
  if (pod == nullptr) {
    return Fail(Code::kUnauthenticated,
                fmt::format("pod {}/{} (uid {}) does not exist, or not any more", ns, name, uid));
  }
  if (pod->meta.ns != ns || (!name.empty() && pod->meta.name != name)) {
    return Fail(Code::kUnauthenticated, fmt::format("uid {} belongs to pod {}, not to {}/{}", uid,
                                                    pod->meta.key().ToString(), ns, name));
  }
  if (pod->service_account != account) {
    return Fail(Code::kUnauthenticated,
                fmt::format("pod {} runs as service account {}, not {}", pod->meta.key().ToString(),
                            pod->service_account, account));
  }
  if (!node.empty() && pod->node != node) {
    return Fail(Code::kUnauthenticated, fmt::format("pod {} is on node {}, not on {}",
                                                    pod->meta.key().ToString(), pod->node, node));
  }
  if (pod->terminal()) {
    return Fail(Code::kUnauthenticated,
                fmt::format("pod {} has ended ({})", pod->meta.key().ToString(), pod->phase));
  }
  return {};
}

}  // namespace

Result<std::string_view> BearerToken(std::string_view authorization) {
  constexpr std::string_view kPrefix = "Bearer ";
  if (!authorization.starts_with(kPrefix) || authorization.size() > kLongestToken) {
    return Fail(Code::kUnauthenticated,
                "no bearer token: send the service account token (audience istio-ca) as "
                "authorization: Bearer ...");
  }
  return authorization.substr(kPrefix.size());
}

Result<Caller> Identify(const TokenClaims& claims, const World& world) {
  QANAT_RETURN_IF_ERROR(CheckPod(world, claims.pod_uid, claims.ns, claims.pod_name,
                                 claims.service_account, claims.node));
  const Pod* pod = world.FindPodByUid(claims.pod_uid);
  return Caller{pod->meta.ns, pod->service_account,  pod->meta.name, pod->meta.uid,
                pod->node,    world.IdentityOf(*pod)};
}

Status StillThere(const Caller& caller, const World& world) {
  return CheckPod(world, caller.pod_uid, caller.ns, caller.pod_name, caller.service_account,
                  caller.node);
}

}  // namespace qanat::controlplane
