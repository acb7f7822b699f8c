// SPDX-License-Identifier: Apache-2.0
// The mesh's own certificate authority: a self-signed root in a directory (key file 0600, made when
// absent), SPIFFE leaf certificates, the control plane's serving certificate. Signing is pure once
// the root is loaded; any thread.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/tls/x509.h"

namespace qanat::controlplane {

struct CaOptions {
  std::string directory;
  std::string trust_domain = "cluster.local";
  std::chrono::seconds default_ttl{24 * 3600};  // when a request names none
  std::chrono::seconds max_ttl{24 * 3600};      // longer requests get this
};

class CertificateAuthority {
 public:
  // Reads root-key.pem and root-cert.pem, or makes them if both are absent (ECDSA P-256, 10 years).
  // Refuses a key that others may read, a pair that does not match, an expired root.
  static Result<CertificateAuthority> OpenOrCreate(CaOptions options, tls::Time now);

  const std::string& root_pem() const { return root_pem_; }
  const tls::Certificate& root() const { return root_.certificate; }
  const CaOptions& options() const { return options_; }

  // What a CreateCertificate answer holds: the leaf, then the root, one PEM each, newline at the
  // end (stock ztunnel takes the last as its roots). `requested` <= 0: the default.
  Result<std::vector<std::string>> SignWorkload(const tls::PublicKey& key,
                                                const std::string& spiffe_uri,
                                                std::chrono::seconds requested,
                                                tls::Time now) const;

  struct Serving {
    std::string key_pem;
    std::string chain_pem;
  };
  // For the control plane's own TLS port.
  Result<Serving> IssueServing(const std::vector<std::string>& dns,
                               const std::vector<std::string>& ips, tls::Time now) const;

 private:
  CertificateAuthority(CaOptions options, tls::Authority root, std::string root_pem)
      : options_(std::move(options)), root_(std::move(root)), root_pem_(std::move(root_pem)) {}
  CaOptions options_;
  tls::Authority root_;
  std::string root_pem_;
};

}  // namespace qanat::controlplane
