// SPDX-License-Identifier: Apache-2.0
// Verifies service account tokens with the issuer's public keys (a JWKS file, read again when it
// changes), as an API server's TokenReview would. Answers at once. On the control plane's loop.
#pragma once

#include <string>

#include "common/tls/jwt.h"
#include "controlplane/ca/caller.h"

namespace qanat::controlplane {

class JwksAuthenticator final : public Authenticator {
 public:
  explicit JwksAuthenticator(std::string jwks_path) : path_(std::move(jwks_path)) {}
  PendingPtr Authenticate(std::string_view authorization, tls::Time now, Done done) override;

 private:
  Result<TokenClaims> Verify(std::string_view authorization, tls::Time now);
  Status LoadKeys();

  const std::string path_;
  tls::JwtKeySet keys_;
  bool loaded_ = false;
  int64_t modified_ns_ = -1;
  uint64_t inode_ = 0;
};

}  // namespace qanat::controlplane
