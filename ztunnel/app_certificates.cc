// SPDX-License-Identifier: Apache-2.0
// App's part about certificates: whose are wanted, ahead of time and on demand, and who is told.
// Main thread.
#include <algorithm>
#include <utility>

#include "common/base/log.h"
#include "common/route/identify.h"
#include "ztunnel/app.h"

namespace qanat::ztunnel {

// Stock ztunnel asks ahead for what the control plane announces on its node, so that a pod's first
// connection does not wait for the CA.
void App::NoteNodeWorkloads(const std::vector<KeptText>& names) {
  const Config& config = environment_.config;
  if (config.node_name.empty() || config.mode != Config::Mode::kShared) return;
  constexpr size_t kMost = 1024;  // more than a node has pods
  for (const KeptText& name : names) {
    const model::WorkloadPtr workload = snapshot_->WorkloadByUid(name);
    const bool ours =
        workload != nullptr && workload->node == config.node_name &&
        (workload->protocol == model::TunnelProtocol::kHbone || workload->native_tunnel);
    if (!ours) {
      node_workloads_.erase(name);
    } else if (node_workloads_.size() < kMost || node_workloads_.contains(name)) {
      node_workloads_[name] = workload->identity();
    }
  }
}

// Certificates are asked for by what the control plane announces: peers go by that, too.
void App::CheckTrustDomain(const model::Workload& own) {
  const std::string& wanted = environment_.config.trust_domain;
  if (wanted.empty() || wanted == own.trust_domain || std::exchange(trust_domain_said_, true)) {
    return;
  }
  LOG_WARN("ca", "TRUST_DOMAIN=\"{}\": the control plane says {}, which holds", wanted,
           own.identity().ToString());
}

void App::RefreshCertificates() {
  if (!secrets_ || !pods_) return;
  std::set<model::Identity> wanted;
  for (const auto& [uid, entry] : pods_->entries()) {
    const route::Identified found = route::IdentifyPod(*snapshot_, environment_.mesh, *entry.pod);
    if (entry.pod->addresses.empty()) pods_->RereadAddresses(uid);
    if (found.workload == nullptr) {
      if (found.reason == model::Reason::kAddressMismatch) pods_->RereadAddresses(uid);
      continue;
    }
    wanted.insert(found.workload->identity());
    if (environment_.config.mode == Config::Mode::kDedicated) CheckTrustDomain(*found.workload);
  }
  if (const PodPtr self = pods_->self()) {
    const route::Identified found = route::IdentifyPod(*snapshot_, environment_.mesh, *self);
    if (found.workload != nullptr) {
      wanted.insert(found.workload->identity());
      CheckTrustDomain(*found.workload);
    }
  }
  for (const auto& [uid, identity] : node_workloads_) wanted.insert(identity);
  for (const model::Identity& id : wanted) {
    if (!wanted_identities_.contains(id)) secrets_->Request(id, identity::Priority::kWarmup);
  }
  // One that is briefly not identified keeps its certificate as long as a pod could use it.
  for (const model::Identity& id : wanted_identities_) {
    if (wanted.contains(id)) continue;
    const bool used =
        std::any_of(pods_->entries().begin(), pods_->entries().end(), [&](const auto& item) {
          return item.second.pod->ns == id.ns && item.second.pod->service_account == id.sa;
        });
    if (used) {
      wanted.insert(id);
    } else {
      secrets_->Forget(id);
    }
  }
  wanted_identities_ = std::move(wanted);
}

void App::OnCertificate(const model::Identity& id, const identity::CertificatePtr& certificate) {
  trust_->OnCertificate(id, certificate);
  for (auto& worker : workers_) {
    worker->loop().Post(
        [raw = worker.get(), id, certificate] { raw->SetCertificate(id, certificate); });
  }
}

void App::WantCertificate(const model::Identity& id) {
  wanted_identities_.insert(id);
  secrets_->Request(
      id, identity::Priority::kRealTime, [this, id](Result<identity::CertificatePtr> result) {
        if (result) return OnCertificate(id, *result);
        LOG_WARN("ca", "no certificate for {}: {}", id.ToString(), result.error().message);
        for (auto& worker : workers_) {
          worker->loop().Post([raw = worker.get(), id, error = result.error()] {
            raw->CertificateFailed(id, error);
          });
        }
      });
}

}  // namespace qanat::ztunnel
