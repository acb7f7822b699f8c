// SPDX-License-Identifier: Apache-2.0
#include "common/route/identify.h"

#include <fmt/format.h>

namespace qanat::route {
namespace {

using model::Reason;

bool IsPod(const model::Workload& workload) {
  return workload.uid.view().find("//Pod/") != std::string_view::npos;
}

model::WorkloadPtr Find(const state::MeshSnapshot& snapshot, const Mesh& mesh,
                        const PodFacts& pod) {
  // The uid of a pod in workload xDS (stock istiod): <cluster>//Pod/<namespace>/<name>.
  std::string uid;
  uid.reserve(mesh.cluster_id.size() + pod.ns.size() + pod.name.size() + 8);
  uid.append(mesh.cluster_id).append("//Pod/").append(pod.ns).append("/").append(pod.name);
  if (auto found = snapshot.WorkloadByUid(uid)) return found;
  for (const net::IpAddress& ip : pod.addresses) {
    for (auto& workload : snapshot.WorkloadsByAddress(mesh.network, ip)) {
      if (workload->name() == pod.name && workload->ns == pod.ns) return workload;
    }
  }
  return nullptr;
}

}  // namespace

Identified IdentifyPod(const state::MeshSnapshot& snapshot, const Mesh& mesh, const PodFacts& pod) {
  auto workload = Find(snapshot, mesh, pod);
  if (workload == nullptr) {
    return {Reason::kSourceUnknown,
            fmt::format("the control plane has not announced pod {}/{}", pod.ns, pod.name),
            nullptr};
  }
  if (workload->service_account != pod.service_account) {
    return {Reason::kAddressMismatch,
            fmt::format("pod {}/{}: the node agent says service account {}, the control plane {}",
                        pod.ns, pod.name, pod.service_account, workload->service_account),
            nullptr};
  }
  bool shared = pod.addresses.empty() || workload->addresses.empty();
  for (const net::IpAddress& ip : pod.addresses) {
    shared = shared || workload->HasAddress(ip);
    for (const auto& other : snapshot.WorkloadsByAddress(workload->network, ip)) {
      if (other->uid == workload->uid || !IsPod(*other)) continue;
      if (other->identity() == workload->identity()) continue;
      return {Reason::kAddressMismatch,
              fmt::format("address {} of pod {}/{} is still announced for {}/{}", ip.ToString(),
                          pod.ns, pod.name, other->ns, other->name()),
              nullptr};
    }
  }
  if (!shared) {
    return {Reason::kAddressMismatch,
            fmt::format("pod {}/{} has address {} in its namespace, the control plane says {}",
                        pod.ns, pod.name, pod.addresses.front().ToString(),
                        workload->addresses.front().ToString()),
            nullptr};
  }
  return {Reason::kNone, {}, std::move(workload)};
}

}  // namespace qanat::route
