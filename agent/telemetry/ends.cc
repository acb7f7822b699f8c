// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/ends.h"

#include "bpf/user/node_maps.h"

namespace qanat::agent::telemetry {
namespace {

struct End {
  model::WorkloadPtr workload;
  qanat::telemetry::SharedIdentity identity;
  std::string principal;
};

void SetWorkload(End& end, model::WorkloadPtr workload) {
  if (!workload) return;
  end.identity = workload->identity();
  end.principal = end.identity->ToString();
  end.workload = std::move(workload);
}

// A pod of this node: the kernel says which one it is, and the mesh may not contradict.
End OfPod(const Pod& pod, const net::IpAddress& ip, const state::SnapshotPtr& snapshot,
          const std::string& network) {
  End end;
  model::WorkloadPtr workload = snapshot ? snapshot->WorkloadByAddress(network, ip) : nullptr;
  if (workload && workload->name() == pod.name && workload->ns == pod.ns) {
    SetWorkload(end, std::move(workload));
  } else {
    end.principal = "ns/" + pod.ns + "/sa/" + pod.service_account;  // of which trust domain?
  }
  return end;
}

// All of a service's endpoints are one identity, as a rule.
qanat::telemetry::SharedIdentity IdentityOf(const state::MeshSnapshot& snapshot,
                                            const model::Service& service) {
  std::optional<model::Identity> all;
  for (const model::Endpoint& endpoint : snapshot.EndpointsOf(service)) {
    const model::Identity one = endpoint.workload->identity();
    if (all && *all != one) return {};
    all = one;
  }
  return qanat::telemetry::Share(std::move(all));
}

}  // namespace

Ends EndsOf(const qanat_record& record, const Pod* own, const Pod* peer,
            const state::SnapshotPtr& snapshot, const std::string& network) {
  const bool server = (record.flags & QANAT_RECORD_SERVER) != 0;
  const net::IpAddress source = bpf::FromKernel(record.tuple.src);
  const net::IpAddress destination = bpf::FromKernel(record.tuple.dst);
  const net::IpAddress& own_ip = server ? destination : source;
  const net::IpAddress& far_ip = server ? source : destination;

  Ends ends;
  End here, far;
  if (own != nullptr) here = OfPod(*own, own_ip, snapshot, network);
  if (peer != nullptr) {
    far = OfPod(*peer, far_ip, snapshot, network);
  } else if (snapshot && record.path != QANAT_PATH_PROBE) {
    if (!server && own != nullptr) ends.service = snapshot->ServiceByVip(network, far_ip, own->ns);
    if (ends.service) {
      far.identity = IdentityOf(*snapshot, *ends.service);
      if (far.identity) far.principal = far.identity->ToString();
    } else {
      SetWorkload(far, snapshot->WorkloadByAddress(network, far_ip));
    }
  }
  End& from = server ? far : here;
  End& to = server ? here : far;
  ends.source = std::move(from.workload);
  ends.source_identity = std::move(from.identity);
  ends.source_principal = std::move(from.principal);
  ends.destination = std::move(to.workload);
  ends.destination_identity = std::move(to.identity);
  ends.destination_principal = std::move(to.principal);
  return ends;
}

}  // namespace qanat::agent::telemetry
