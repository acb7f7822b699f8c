// SPDX-License-Identifier: Apache-2.0
#include "agent/gate.h"

#include <utility>

namespace qanat::agent {

Gate::Gate(Enroller& enroller, DnsFilesOptions dns, std::function<void()> on_synced)
    : enroller_(enroller), dns_(std::move(dns)), on_synced_(std::move(on_synced)) {}

void Gate::OnPod(const Pod& pod) {
  const bool in_mesh = DecideMembership(pod).in_mesh;
  if (in_mesh) dns_.Put(pod);
  enroller_.OnPod(pod);
  if (!in_mesh) dns_.Remove(pod.uid);
}

void Gate::OnPodGone(const std::string& uid) {
  enroller_.OnPodGone(uid);
  dns_.Remove(uid);
}

void Gate::OnSynced() {
  enroller_.OnSynced();
  dns_.OnSynced();
  on_synced_();
}

}  // namespace qanat::agent
