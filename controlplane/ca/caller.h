// SPDX-License-Identifier: Apache-2.0
// Who calls: a service account token, checked as an API server's TokenReview would (signature,
// audience, times), then against the World: the pod of the token must still be there, with that
// service account, on that node. On the control plane's loop.
#pragma once

#include <chrono>
#include <string>

#include "common/base/result.h"
#include "common/tls/jwt.h"
#include "controlplane/model/world.h"

namespace qanat::controlplane {

struct Caller {
  std::string ns;
  std::string service_account;
  std::string pod_name;
  std::string pod_uid;
  std::string node;      // of the pod, as the World has it
  std::string identity;  // spiffe://...
};

class TokenAuthenticator {
 public:
  explicit TokenAuthenticator(std::string jwks_path) : path_(std::move(jwks_path)) {}

  // `authorization` is the header's value, "Bearer ...". kUnauthenticated with the cause.
  Result<Caller> Authenticate(std::string_view authorization, const World& world, tls::Time now);

 private:
  Status LoadKeys();
  const std::string path_;
  tls::JwtKeySet keys_;
  bool loaded_ = false;
  int64_t modified_ns_ = -1;
  uint64_t inode_ = 0;
};

// The caller's pod is still what the token says: asked again for streams that live on.
Status StillThere(const Caller& caller, const World& world);

}  // namespace qanat::controlplane
