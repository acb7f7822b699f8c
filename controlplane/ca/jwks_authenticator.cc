// SPDX-License-Identifier: Apache-2.0
#include "controlplane/ca/jwks_authenticator.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/base/log.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds kLeeway{30};

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
Result<TokenClaims> ParseClaims(const tls::Jwt& jwt) {
  const json payload = json::parse(jwt.payload, nullptr, false);
  const json& kubernetes = Child(payload, "kubernetes.io");
  TokenClaims out;
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

}  // namespace

Status JwksAuthenticator::LoadKeys() {
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

Result<TokenClaims> JwksAuthenticator::Verify(std::string_view authorization, tls::Time now) {
  QANAT_ASSIGN_OR_RETURN(const std::string_view token, BearerToken(authorization));
  QANAT_RETURN_IF_ERROR(LoadKeys());
  QANAT_ASSIGN_OR_RETURN(const tls::Jwt jwt, tls::VerifyJwt(token, keys_));
  if (!jwt.HasAudience(kTokenAudience)) {
    return Fail(Code::kUnauthenticated,
                "the token's audience is not istio-ca: it was made for another purpose");
  }
  QANAT_RETURN_IF_ERROR(tls::CheckTimes(jwt, now, kLeeway));
  return ParseClaims(jwt);
}

PendingPtr JwksAuthenticator::Authenticate(std::string_view authorization, tls::Time now,
                                           Done done) {
  done(Verify(authorization, now));
  return nullptr;
}

}  // namespace qanat::controlplane
