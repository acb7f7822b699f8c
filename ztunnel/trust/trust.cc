// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/trust/trust.h"

#include "common/base/log.h"
#include "common/tls/tls_context.h"

namespace qanat::ztunnel {

Trust::Trust(event::EventLoop& loop, const std::string& crl_path, metrics::Registry& registry,
             Hooks hooks)
    : hooks_(std::move(hooks)) {
  if (crl_path.empty()) return;
  file_ = std::make_unique<RevocationFile>(
      loop, crl_path, [this](const tls::RevocationListPtr&) { OnLists(); },
      RevocationFile::Options{});
  const auto add = [&](metrics::Kind kind, const char* name, const char* help,
                       std::function<double(const RevocationFile&)> value) {
    registry.AddCallback(kind, name, help, [this, value = std::move(value)] {
      return std::vector<metrics::Sample>{{{}, value(*file_)}};
    });
  };
  add(metrics::Kind::kGauge, "qanat_crl_entries", "Revoked certificates that the lists name",
      [](const RevocationFile& file) {
        return file.lists() ? static_cast<double>(file.lists()->entries()) : 0;
      });
  add(metrics::Kind::kGauge, "qanat_crl_stale_lists",
      "Revocation lists that should have been renewed and are used on",
      [](const RevocationFile& file) { return static_cast<double>(file.stale()); });
  add(metrics::Kind::kGauge, "qanat_crl_in_step",
      "1 when the lists in force are what CRL_PATH holds",
      [](const RevocationFile& file) { return file.in_step() ? 1 : 0; });
  add(metrics::Kind::kCounter, "qanat_crl_failures", "Contents of CRL_PATH that were not taken",
      [](const RevocationFile& file) { return static_cast<double>(file.failures()); });
}

void Trust::Start() {
  if (file_) file_->Start();
}

void Trust::OnLists() {
  for (const auto& [identity, certificate] : own_) CheckOwn(identity, *certificate);
  hooks_.publish(file_->lists());
}

void Trust::OnCertificate(const model::Identity& identity,
                          const identity::CertificatePtr& certificate) {
  if (!file_) return;
  if (certificate == nullptr) {
    own_.erase(identity);
    return;
  }
  identity::CertificatePtr& held = own_[identity];
  if (held == certificate) return;
  held = certificate;
  UpdateAuthorities();
  CheckOwn(identity, *certificate);
}

void Trust::CheckOwn(const model::Identity& identity,
                     const identity::WorkloadCertificate& certificate) {
  if (file_->lists() == nullptr) return;
  const tls::ContextOptions& own = certificate.client->options();
  const auto path =
      tls::VerifiedPath(own.chain, own.roots, tls::Purpose::kAny, std::chrono::system_clock::now());
  if (!path) return;
  const auto why = file_->lists()->Revoked(*path);
  if (!why || !revoked_.insert(certificate.chain.front().serial).second) return;
  // Where only the leaf is on the list a new one helps; with a CA on it, the CA must change first.
  const std::vector<tls::Certificate> issuers(path->begin() + 1, path->end());
  const bool leaf = !file_->lists()->Revoked(issuers);
  LOG_ERROR("crl", "our own certificate of {} is of no use any more: {}; {}", identity.ToString(),
            *why,
            leaf ? "the CA is asked for a new one"
                 : "peers with the same list refuse it until the CA signs with another one");
  if (leaf) hooks_.renew(identity);
}

void Trust::UpdateAuthorities() {
  std::set<std::string> pem;
  std::vector<tls::Certificate> all;
  for (const auto& [identity, certificate] : own_) {
    const tls::ContextOptions& own = certificate->client->options();
    for (const auto* list : {&own.chain, &own.roots}) {
      for (const tls::Certificate& one : *list) {
        if (one.is_ca() && pem.insert(one.ToPem()).second) all.push_back(one);
      }
    }
  }
  if (pem == authorities_) return;
  authorities_ = std::move(pem);
  file_->SetAuthorities(std::move(all));
}

}  // namespace qanat::ztunnel
