// SPDX-License-Identifier: Apache-2.0
// CreateCertificate: authenticate the caller, decide which identity it may have, check the signing
// request, sign. Knows nothing of gRPC. On the control plane's loop.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/metrics/registry.h"
#include "controlplane/ca/authority.h"
#include "controlplane/ca/caller.h"
#include "controlplane/model/world.h"

namespace qanat::controlplane {

struct CertificateRequest {
  std::string csr;  // PEM
  int64_t validity_seconds = 0;
  std::string impersonated;  // metadata ImpersonatedIdentity, "" when absent
};

class CaService {
 public:
  using GetWorld = std::function<std::shared_ptr<const World>()>;
  using Clock = std::function<tls::Time()>;
  // `trusted_nodes`: "namespace/serviceaccount" of node proxies, who may ask for the identities of
  // pods on their own node.
  CaService(const CertificateAuthority& authority, Authenticator& tokens,
            std::set<std::string> trusted_nodes, GetWorld world, Clock clock,
            metrics::Registry& registry);

  using Done = std::function<void(Result<std::vector<std::string>>)>;
  // The chain: leaf, then root. Errors: kUnauthenticated, kPermissionDenied, kInvalidArgument,
  // kUnavailable. `done` is called once, perhaps before this returns (then nullptr is returned).
  [[nodiscard]] PendingPtr CreateCertificate(std::string_view authorization,
                                             CertificateRequest request, Done done);

 private:
  Result<std::vector<std::string>> Answer(const Result<TokenClaims>& claims,
                                          const CertificateRequest& request);
  Result<std::string> Grant(const Caller& caller, const std::string& impersonated,
                            const World& world);
  tl::unexpected<Error> Refuse(const char* reason, Error error, const std::string& who);

  const CertificateAuthority& authority_;
  Authenticator& tokens_;
  const std::set<std::string> trusted_nodes_;
  const GetWorld world_;
  const Clock clock_;
  metrics::Gauge& requests_;
  metrics::Gauge& issued_;
  metrics::Gauge& not_authenticated_;
  metrics::Gauge& bad_requests_;
  metrics::Family<metrics::Counter>& refusals_;
};

}  // namespace qanat::controlplane
