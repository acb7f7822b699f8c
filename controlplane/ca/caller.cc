// SPDX-License-Identifier: Apache-2.0
#include "controlplane/ca/caller.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/base/log.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;

constexpr std::string_view kAudience = "istio-ca";  // stock: the audience of projected tokens
constexpr std::chrono::seconds kLeeway{30};
constexpr size_t kLongestToken = 16384;

struct Claims {
  std::string ns, service_account, pod_name, pod_uid, node;
};

std::string Text(const json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto it = object.find(key);
  return it == object.end() || !it->is_string() ? std::string() : it->get<std::string>();
}

const json& Child(const json& object, const char* key) {
  static const json none;
  if (!object.is_object()) return none;
  const auto it = object.find(key);
  return it == object.end() ? none : *it;
}

// The private claim of Kubernetes' projected tokens.
Result<Claims> ParseClaims(const tls::Jwt& jwt) {
  const json payload = json::parse(jwt.payload, nullptr, false);
  const json& kubernetes = Child(payload, "kubernetes.io");
  Claims out;
  out.ns = Text(kubernetes, "namespace");
  out.service_account = Text(Child(kubernetes, "serviceaccount"), "name");
  out.pod_name = Text(Child(kubernetes, "pod"), "name");
  out.pod_uid = Text(Child(kubernetes, "pod"), "uid");
  out.node = Text(Child(kubernetes, "node"), "name");
  if (out.ns.empty() || out.service_account.empty() || out.pod_uid.empty()) {
    return Fail(Code::kUnauthenticated,
                "the token is not bound to a pod (claims kubernetes.io namespace, serviceaccount, "
                "pod): use a projected service account token");
  }
  if (jwt.sub != "system:serviceaccount:" + out.ns + ":" + out.service_account) {
    return Fail(Code::kUnauthenticated, "the token's sub and its kubernetes.io claims disagree");
  }
  return out;
}

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

Status TokenAuthenticator::LoadKeys() {
  struct stat st{};
  if (::stat(path_.c_str(), &st) != 0) {
    // Keys that were good stay good while the file is being replaced.
    if (loaded_) return {};
    return Fail(Code::kUnavailable, fmt::format("--token-jwks {} cannot be read: nobody can be "
                                                "authenticated until it is there",
                                                path_));
  }
  const int64_t modified = st.st_mtim.tv_sec * 1'000'000'000LL + st.st_mtim.tv_nsec;
  if (loaded_ && modified == modified_ns_ && st.st_ino == inode_) return {};
  std::ifstream in(path_);
  std::stringstream text;
  text << in.rdbuf();
  Result<tls::JwtKeySet> keys = tls::JwtKeySet::Parse(text.str());
  if (!keys) {
    LOG_ERROR("ca", "--token-jwks {}: {}", path_, keys.error().message);
    if (loaded_) return {};
    return Fail(Code::kUnavailable, fmt::format("--token-jwks {} holds no usable key", path_));
  }
  keys_ = std::move(*keys);
  loaded_ = true;
  modified_ns_ = modified;
  inode_ = st.st_ino;
  LOG_INFO("ca", "{} token keys loaded from {}", keys_.keys().size(), path_);
  return {};
}

Result<Caller> TokenAuthenticator::Authenticate(std::string_view authorization, const World& world,
                                                tls::Time now) {
  if (!authorization.starts_with("Bearer ") || authorization.size() > kLongestToken) {
    return Fail(Code::kUnauthenticated,
                "no bearer token: send the service account token (audience istio-ca) as "
                "authorization: Bearer ...");
  }
  QANAT_RETURN_IF_ERROR(LoadKeys());
  QANAT_ASSIGN_OR_RETURN(const tls::Jwt jwt, tls::VerifyJwt(authorization.substr(7), keys_));
  if (!jwt.HasAudience(kAudience)) {
    return Fail(Code::kUnauthenticated,
                "the token's audience is not istio-ca: it was made for another purpose");
  }
  QANAT_RETURN_IF_ERROR(tls::CheckTimes(jwt, now, kLeeway));
  QANAT_ASSIGN_OR_RETURN(const Claims claims, ParseClaims(jwt));
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
