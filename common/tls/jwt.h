// SPDX-License-Identifier: Apache-2.0
// JSON Web Tokens: verification with a key set (RS256/384/512, ES256/384) and signing with ES256 or
// RS256. Signature and structure only; whoever verifies decides on issuer, audience and time with
// the parsed claims (CheckTimes helps). "none" and HMAC algorithms do not exist here.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/tls/crypto.h"
#include "common/tls/x509.h"

namespace qanat::tls {

struct JwtKey {
  std::string kid;  // "" matches any token
  std::string alg;  // "" = whatever suits the key's type
  PublicKey key;
};

class JwtKeySet {
 public:
  JwtKeySet() = default;
  explicit JwtKeySet(std::vector<JwtKey> keys) : keys_(std::move(keys)) {}
  // A JWKS document. Keys of unknown type or use are skipped; none usable is an error.
  static Result<JwtKeySet> Parse(std::string_view jwks_json);
  const std::vector<JwtKey>& keys() const { return keys_; }

 private:
  std::vector<JwtKey> keys_;
};

// A one-key JWKS document for a P-256 or RSA key.
Result<std::string> MakeJwks(const PublicKey& key, std::string_view kid);

struct Jwt {
  std::string alg;
  std::string kid;
  std::string payload;  // the claims as JSON text, for what is not below
  // The registered claims (RFC 7519); absent = "" or nullopt.
  std::string iss;
  std::string sub;
  std::string jti;
  std::vector<std::string> aud;
  std::optional<int64_t> exp;
  std::optional<int64_t> nbf;
  std::optional<int64_t> iat;

  bool HasAudience(std::string_view audience) const;
};

// Splits and parses without checking the signature: to look at a token, never to trust it.
Result<Jwt> ParseJwtUnverified(std::string_view token);
// Parses and checks the signature. kUnauthenticated with the cause otherwise.
Result<Jwt> VerifyJwt(std::string_view token, const JwtKeySet& keys);
// exp is required and must be ahead; nbf and iat, when there, not ahead by more than the leeway.
Status CheckTimes(const Jwt& jwt, Time now, std::chrono::seconds leeway);

// `payload` is the claims object as JSON text; the algorithm follows from the key.
Result<std::string> SignJwt(const PrivateKey& key, std::string_view kid, std::string_view payload);

}  // namespace qanat::tls
