// SPDX-License-Identifier: Apache-2.0
#include "common/identity/trust_bundle.h"

#include <algorithm>

#include "common/base/log.h"
#include "common/tls/tls_context.h"

namespace qanat::identity {

SystemTime TrustBundle::End(const Root& root) const {
  SystemTime end = root.certificate.not_after();
  if (root.withdrawn) end = std::min(end, *root.withdrawn + grace_);
  return end;
}

bool TrustBundle::Saw(const std::vector<tls::Certificate>& answer, SystemTime now) {
  bool changed = false;
  std::map<std::vector<uint8_t>, Root> named;
  for (const tls::Certificate& certificate : answer) {
    std::vector<uint8_t> der = certificate.ToDer();
    const bool known = roots_.contains(der);
    // The first answer is no change to tell of.
    if (!known && !roots_.empty()) {
      LOG_INFO("ca",
               "the CA has a new root: {} (serial {}, until {}); it is believed beside those "
               "from before",
               certificate.subject(), certificate.serial(),
               tls::FormatTime(certificate.not_after()));
    }
    changed = changed || !known;
    named.insert_or_assign(std::move(der), Root{certificate, std::nullopt});
  }
  for (auto& [der, root] : roots_) {
    if (named.contains(der)) continue;
    if (!root.withdrawn) {
      root.withdrawn = now;
      LOG_INFO("ca", "the CA no longer names the root {} (serial {}); it is believed until {}",
               root.certificate.subject(), root.certificate.serial(), tls::FormatTime(End(root)));
    }
    named.emplace(der, std::move(root));
  }
  roots_ = std::move(named);
  return Expire(now) || changed;
}

bool TrustBundle::Expire(SystemTime now) {
  return std::erase_if(roots_, [&](const auto& item) {
           // What the CA itself gives out is its own affair, expired or not.
           const Root& root = item.second;
           if (!root.withdrawn || End(root) > now) return false;
           LOG_INFO("ca", "the root {} (serial {}) is no longer believed",
                    root.certificate.subject(), root.certificate.serial());
           return true;
         }) > 0;
}

std::optional<SystemTime> TrustBundle::next() const {
  std::optional<SystemTime> out;
  for (const auto& [der, root] : roots_) {
    if (root.withdrawn) out = std::min(out.value_or(SystemTime::max()), End(root));
  }
  return out;
}

std::vector<tls::Certificate> TrustBundle::roots() const {
  std::vector<tls::Certificate> out;
  for (const auto& [der, root] : roots_) out.push_back(root.certificate);
  return out;
}

Result<CertificatePtr> WithRoots(const WorkloadCertificate& certificate,
                                 const std::vector<tls::Certificate>& roots) {
  auto out = std::make_shared<WorkloadCertificate>(certificate);
  out->roots.clear();
  for (const tls::Certificate& root : roots) {
    out->roots.push_back({root.ToPem(), root.serial(), root.not_before(), root.not_after()});
  }
  out->roots_pem = tls::ToPem(roots);
  tls::ContextOptions options = certificate.client->options();
  options.roots = roots;
  QANAT_ASSIGN_OR_RETURN(out->client, tls::TlsContext::Make(std::move(options)));
  out->server = out->client;
  return CertificatePtr(std::move(out));
}

}  // namespace qanat::identity
