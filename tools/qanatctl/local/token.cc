// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/token.h"

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "common/tls/crypto.h"
#include "common/tls/jwt.h"
#include "tools/qanatctl/local/files.h"

namespace qanat::local {
namespace {

constexpr char kKeyId[] = "qanat-local";

std::string AsUid(const std::string& hex) {
  return hex.substr(0, 8) + "-" + hex.substr(8, 4) + "-4" + hex.substr(13, 3) + "-a" +
         hex.substr(17, 3) + "-" + hex.substr(20, 12);
}

}  // namespace

struct TokenIssuer::Key {
  tls::PrivateKey key;
};

std::string StableUid(const std::string& what) { return AsUid(tls::Sha256Hex(what)); }
std::string RandomUid() { return AsUid(tls::RandomHex(16)); }

std::string TokenClaims(const TokenSubject& subject, const std::string& audience, int64_t now,
                        const std::string& jti) {
  const nlohmann::json claims = {
      {"iss", "https://kubernetes.default.svc.cluster.local"},
      {"aud", {audience}},
      {"sub", fmt::format("system:serviceaccount:{}:{}", subject.ns, subject.service_account)},
      {"iat", now},
      {"nbf", now},
      {"exp", now + kTokenLifetime.count()},
      {"jti", jti},
      {"kubernetes.io",
       {{"namespace", subject.ns},
        {"serviceaccount",
         {{"name", subject.service_account},
          {"uid", StableUid("sa/" + subject.ns + "/" + subject.service_account)}}},
        {"pod", {{"name", subject.pod}, {"uid", subject.pod_uid}}},
        {"node", {{"name", subject.node}, {"uid", StableUid("node/" + subject.node)}}}}}};
  return claims.dump();
}

Result<TokenIssuer> TokenIssuer::Create(const Names& names) {
  QANAT_RETURN_IF_ERROR(MakeDirs(names.TokensDir(), 0700));
  QANAT_ASSIGN_OR_RETURN(auto key, tls::PrivateKey::GenerateP256());
  QANAT_ASSIGN_OR_RETURN(const std::string jwks, tls::MakeJwks(key.public_key(), kKeyId));
  QANAT_RETURN_IF_ERROR(WriteFile(names.TokensDir() + "/issuer-key.pem", key.ToPem(), 0600));
  QANAT_RETURN_IF_ERROR(WriteFile(names.TokensDir() + "/jwks.json", jwks));
  auto held = std::make_shared<Key>();
  held->key = std::move(key);
  return TokenIssuer(std::move(held));
}

Result<std::string> TokenIssuer::Issue(const TokenSubject& subject,
                                       const std::string& audience) const {
  const auto now = std::chrono::duration_cast<std::chrono::seconds>(
      std::chrono::system_clock::now().time_since_epoch());
  return tls::SignJwt(key_->key, kKeyId, TokenClaims(subject, audience, now.count(), RandomUid()));
}

}  // namespace qanat::local
