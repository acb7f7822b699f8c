// SPDX-License-Identifier: Apache-2.0
// Getting a certificate for an identity: a new P-256 key, a CSR with one URI SAN, one
// istio.v1.auth.IstioCertificateService/CreateCertificate call, and the checks on what comes back.
// An interface, because the SecretManager is tested against a fake.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "common/base/result.h"
#include "common/grpc/channel.h"
#include "common/identity/certificate.h"

namespace qanat::identity {

class CaClient {
 public:
  class Fetch {  // destroying it cancels
   public:
    virtual ~Fetch() = default;
  };
  using Done = std::function<void(Result<CertificatePtr>)>;
  virtual ~CaClient() = default;
  // Calls `done` once, later, unless the handle has gone before.
  virtual std::unique_ptr<Fetch> FetchCertificate(const model::Identity& identity, Done done) = 0;
};

struct CaOptions {
  std::chrono::seconds validity{86400};  // SECRET_TTL
  // ztunnel: the request names the identity it asks for (ImpersonatedIdentity); a waypoint asks for
  // its own and the CA goes by the token.
  bool impersonate = true;
  // Stock ztunnel sets none and can hang on a dead CA.
  std::chrono::milliseconds deadline{30000};
  bool tls12 = false;              // TLS12_ENABLED
  bool post_quantum_only = false;  // COMPLIANCE_POLICY=pqc
  bool resumption = false;         // session tickets, given and taken
};

// `channel` outlives it and carries the token.
std::unique_ptr<CaClient> MakeGrpcCaClient(grpc::Channel& channel, CaOptions options);

// The checks alone, for tests and for certificates from elsewhere: chain[0..n-2] leaf and
// intermediates, chain[n-1] the root bundle; the leaf's only SAN is `identity`, it is valid now,
// its key is `key_pem`, and it verifies against the roots.
Result<CertificatePtr> BuildCertificate(const model::Identity& identity,
                                        const std::vector<std::string>& cert_chain,
                                        const std::string& key_pem, const CaOptions& options,
                                        SystemTime now);

}  // namespace qanat::identity
