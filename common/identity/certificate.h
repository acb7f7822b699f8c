// SPDX-License-Identifier: Apache-2.0
// A workload's certificate as an immutable snapshot: made on the main thread, posted to workers,
// shared by every connection that was begun with it.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "common/model/identity.h"

namespace qanat::tls {
class TlsContext;
}

namespace qanat::identity {

using SystemTime = std::chrono::system_clock::time_point;

struct CertificateInfo {
  std::string pem;
  std::string serial;  // decimal, as config_dump shows it
  SystemTime not_before;
  SystemTime not_after;
};

struct WorkloadCertificate {
  model::Identity identity;
  std::vector<CertificateInfo> chain;  // leaf, then intermediates
  std::vector<CertificateInfo> roots;
  std::string chain_pem;
  std::string roots_pem;
  // Mutual TLS both ways: the private key lives in these only.
  std::shared_ptr<const tls::TlsContext> client;
  std::shared_ptr<const tls::TlsContext> server;

  SystemTime not_before() const { return chain.empty() ? SystemTime{} : chain.front().not_before; }
  SystemTime not_after() const { return chain.empty() ? SystemTime{} : chain.front().not_after; }
  // Half of the lifetime, as stock ztunnel renews.
  SystemTime renew_at() const { return not_before() + (not_after() - not_before()) / 2; }
};
using CertificatePtr = std::shared_ptr<const WorkloadCertificate>;

}  // namespace qanat::identity
