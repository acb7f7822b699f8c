// SPDX-License-Identifier: Apache-2.0
// Service account tokens as a cluster's API server would issue them: ES256 JWTs with the claims of
// projected tokens. The issuer's private key never leaves R/tokens (0600); the control plane gets
// the public half as a JWKS file.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "common/base/result.h"
#include "tools/qanatctl/local/names.h"

namespace qanat::local {

inline constexpr char kMeshAudience[] = "istio-ca";
// What the token in every container is for; no CA of the mesh accepts it.
inline constexpr char kApiAudience[] = "https://kubernetes.default.svc.cluster.local";
inline constexpr std::chrono::seconds kTokenLifetime{3600};

struct TokenSubject {
  std::string ns;
  std::string service_account;
  std::string pod;
  std::string pod_uid;
  std::string node;
};

// The same account, node or object always has the same uid within a mesh. Pure.
std::string StableUid(const std::string& what);
std::string RandomUid();

// The claims as JSON text. Pure.
std::string TokenClaims(const TokenSubject& subject, const std::string& audience, int64_t now,
                        const std::string& jti);

class TokenIssuer {
 public:
  // Makes the key and writes R/tokens/{issuer-key.pem,jwks.json}.
  static Result<TokenIssuer> Create(const Names& names);
  Result<std::string> Issue(const TokenSubject& subject, const std::string& audience) const;

 private:
  struct Key;
  explicit TokenIssuer(std::shared_ptr<const Key> key) : key_(std::move(key)) {}
  std::shared_ptr<const Key> key_;
};

}  // namespace qanat::local
