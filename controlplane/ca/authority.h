// SPDX-License-Identifier: Apache-2.0
// The mesh's certificate authority: its key and certificate from a directory (a self-signed root,
// made when absent, key file 0600) or as texts; SPIFFE leaf certificates, the control plane's
// serving certificate. Signing is pure once the key is loaded; any thread.
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

// A certificate authority as PEM texts, in stock istiod's pieces.
struct CaFiles {
  std::string certificate;  // ca-cert.pem: what signs
  std::string key;          // ca-key.pem
  std::string chain;        // cert-chain.pem: between it and the root; may begin with it; may be ""
  std::string roots;        // root-cert.pem; "": the certificate is the root
  std::string where;        // for messages
};
// A new self-signed root (ECDSA P-256, 10 years): certificate and key.
Result<CaFiles> MakeCaFiles(const std::string& trust_domain, tls::Time now);

class CertificateAuthority {
 public:
  // Reads root-key.pem and root-cert.pem, or makes them if both are absent (ECDSA P-256, 10 years).
  // Refuses a key that others may read, a pair that does not match, an expired root.
  static Result<CertificateAuthority> OpenOrCreate(CaOptions options, tls::Time now);

  // Refuses what does not fit together or has expired; the error says which piece and the remedy.
  static Result<CertificateAuthority> FromFiles(CaOptions options, const CaFiles& files,
                                                tls::Time now);

  const std::string& root_pem() const { return root_pem_; }  // may hold several
  const tls::Certificate& root() const { return root_; }     // the first of them
  const CaOptions& options() const { return options_; }

  // What a CreateCertificate answer holds: the leaf, intermediates, then the roots, newline at the
  // end of each (stock ztunnel takes the last as its roots). `requested` <= 0: the default.
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
  CertificateAuthority(CaOptions options, tls::Authority signer, tls::Certificate root)
      : options_(std::move(options)), signer_(std::move(signer)), root_(std::move(root)) {}
  CaOptions options_;
  tls::Authority signer_;
  tls::Certificate root_;
  std::vector<std::string> intermediates_;  // PEM: the signer first, unless it is the root
  std::string root_pem_;
};

}  // namespace qanat::controlplane
