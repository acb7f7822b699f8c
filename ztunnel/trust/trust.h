// SPDX-License-Identifier: Apache-2.0
// Revocation as the whole process sees it: the lists of CRL_PATH go to every worker, and our own
// certificates are looked up in them too. On the main thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "common/identity/certificate.h"
#include "common/metrics/registry.h"
#include "ztunnel/trust/revocation_file.h"

namespace qanat::ztunnel {

class Trust {
 public:
  struct Hooks {
    std::function<void(const tls::RevocationListPtr&)> publish;  // to the workers
    // Asks for a new certificate before the present one's time.
    std::function<void(const model::Identity&)> renew;
  };
  // `crl_path` "": nobody is ever revoked.
  Trust(event::EventLoop& loop, const std::string& crl_path, metrics::Registry& registry,
        Hooks hooks);

  void Start();
  // A certificate of our own came, or went (null).
  void OnCertificate(const model::Identity& identity, const identity::CertificatePtr& certificate);

 private:
  void OnLists();
  void CheckOwn(const model::Identity& identity, const identity::WorkloadCertificate& certificate);
  void UpdateAuthorities();

  const Hooks hooks_;
  std::unique_ptr<RevocationFile> file_;
  std::map<model::Identity, identity::CertificatePtr> own_;
  std::set<std::string> authorities_;  // PEM of what the file was told last
  std::set<std::string> revoked_;      // serial numbers of our own that were said
};

}  // namespace qanat::ztunnel
