// SPDX-License-Identifier: Apache-2.0
// The roots that this process believes while a mesh changes them. The CA's answers come at
// different times to different proxies: while some present certificates of a new root already,
// others still present those of the old one for up to their whole life. So a root is believed from
// the first answer that names it, and, once no answer names it any more, for as long as
// certificates below it may still be presented (`grace`), but never past its own end. Pure.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <vector>

#include "common/identity/certificate.h"
#include "common/tls/x509.h"

namespace qanat::identity {

class TrustBundle {
 public:
  // `grace` 0: exactly the roots of the newest answer, as stock ztunnel.
  explicit TrustBundle(std::chrono::seconds grace) : grace_(grace) {}

  // The roots of the CA's newest answer. True when roots() is another set than before.
  bool Saw(const std::vector<tls::Certificate>& answer, SystemTime now);
  // Lets go of what is over. True when roots() is another set than before.
  bool Expire(SystemTime now);
  // When Expire() will have something to do, if ever.
  std::optional<SystemTime> next() const;
  std::vector<tls::Certificate> roots() const;  // in one order for one set

 private:
  struct Root {
    tls::Certificate certificate;
    std::optional<SystemTime> withdrawn;  // since when no answer names it
  };
  SystemTime End(const Root& root) const;

  const std::chrono::seconds grace_;
  std::map<std::vector<uint8_t>, Root> roots_;  // by DER
};

// The same certificate and key, believing these roots.
Result<CertificatePtr> WithRoots(const WorkloadCertificate& certificate,
                                 const std::vector<tls::Certificate>& roots);

}  // namespace qanat::identity
