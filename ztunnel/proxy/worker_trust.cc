// SPDX-License-Identifier: Apache-2.0
// The worker's side of certificates: our own as the main thread sends them, peers' as revocation
// lists take them away, and how handshakes went.
#include <fmt/format.h>

#include <algorithm>

#include "common/base/log.h"
#include "ztunnel/proxy/worker.h"

namespace qanat::ztunnel {
namespace {

bool Has(const std::vector<identity::CertificateInfo>& roots, const std::string& pem) {
  return std::any_of(roots.begin(), roots.end(),
                     [&](const identity::CertificateInfo& root) { return root.pem == pem; });
}

// What was believed before and no longer is.
bool LosesRoot(const identity::WorkloadCertificate& before,
               const identity::WorkloadCertificate& now) {
  return std::any_of(
      before.roots.begin(), before.roots.end(),
      [&](const identity::CertificateInfo& root) { return !Has(now.roots, root.pem); });
}

}  // namespace

SharedIdentity Worker::Shared(model::Identity identity) {
  constexpr size_t kMost = 256;  // a node's pods and whom they talk to; who is missing is made anew
  const auto it = shared_identities_.find(identity);
  if (it != shared_identities_.end()) return it->second;
  if (shared_identities_.size() >= kMost) shared_identities_.clear();
  SharedIdentity shared(identity);
  shared_identities_.emplace(std::move(identity), shared);
  return shared;
}

identity::CertificatePtr Worker::FindCertificate(const model::Identity& identity) const {
  const auto it = certificates_.find(identity);
  if (it == certificates_.end()) return nullptr;
  return it->second->not_after() > std::chrono::system_clock::now() ? it->second : nullptr;
}

void Worker::AwaitCertificate(const model::Identity& identity, Connection* connection) {
  waiting_for_certificate_.emplace(identity, connection);
  environment_.want_certificate(identity);
}

void Worker::SetCertificate(const model::Identity& identity, identity::CertificatePtr certificate) {
  if (certificate == nullptr) {
    certificates_.erase(identity);
    return;
  }
  identity::CertificatePtr& held = certificates_[identity];
  // With the first one, what another process handed over is looked at: its tunnels were made with
  // that one's certificate, and believed by its roots.
  const bool first = held == nullptr;
  const bool renewed = first || held->chain_pem != certificate->chain_pem;
  const bool distrusts = first || LosesRoot(*held, *certificate);
  held = certificate;
  if (distrusts) {
    ForEachConnection([&](Connection& connection) { connection.OnLostRoot(*certificate); });
  }
  if (renewed || distrusts) {
    handshakes_->tickets.Clear();  // of other contexts than those that are in use from now on
    // New streams go over tunnels that were made with the new certificate, to peers whose root is
    // still believed.
    const std::string spiffe = identity.ToString();
    const auto ours = [&](const hbone::PoolKey& key) { return key.source_identity == spiffe; };
    for (hbone::Pool* pool : {inner_pool_.get(), pool_.get()}) pool->Drain(ours);
    mover_.tunnels().Drain(ours);
  }
  AnswerWaiting(identity, std::move(certificate));
}

void Worker::CertificateFailed(const model::Identity& identity, const Error& error) {
  AnswerWaiting(identity, Fail(error));
}

void Worker::AnswerWaiting(const model::Identity& identity,
                           const Result<identity::CertificatePtr>& answer) {
  const auto [begin, end] = waiting_for_certificate_.equal_range(identity);
  std::vector<Connection*> waiting;
  for (auto it = begin; it != end; ++it) waiting.push_back(it->second);
  waiting_for_certificate_.erase(begin, end);
  for (Connection* connection : waiting) connection->OnCertificate(answer);
}

void Worker::SetRevocations(const tls::RevocationListPtr& lists) {
  handshakes_->verifier.SetRevocations(lists);
  // Users' connections first, so that each says why it ended; then the tunnels below them.
  for (const bool users : {true, false}) {
    ForEachConnection([users](Connection& connection) {
      if (connection.IsUserConnection() == users) connection.OnRevocations();
    });
  }
  const size_t tunnels = handshakes_->verifier.EndRevoked();
  if (tunnels > 0) LOG_WARN("crl", "{} tunnels with revoked peers are ended", tunnels);
}

void Worker::CountHandshake(const tls::HandshakeOutcome& outcome) {
  using Kind = tls::HandshakeOutcome::Kind;
  const char* role = outcome.server ? "server" : "client";
  const char* how = "ok";
  switch (outcome.kind) {
    case Kind::kOk: break;
    case Kind::kFailed: how = "failed"; break;
    case Kind::kTimeout: how = "timeout"; break;
    case Kind::kShed: how = "shed"; break;
  }
  metrics_.handshakes.With({role, how})->Add();
  if (outcome.kind != Kind::kOk) return;
  if (outcome.resumed) metrics_.resumptions.With({role})->Add();
  metrics_.handshake_duration.With({role})->Observe(
      std::chrono::duration<double>(outcome.duration).count());
}

}  // namespace qanat::ztunnel
