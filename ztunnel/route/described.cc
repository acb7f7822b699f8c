// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/route/described.h"

#include <algorithm>

namespace qanat::ztunnel {
namespace {

model::WorkloadType TypeOf(std::string_view name) {
  for (const auto type : {model::WorkloadType::kDeployment, model::WorkloadType::kCronJob,
                          model::WorkloadType::kPod, model::WorkloadType::kJob}) {
    if (name == ToString(type)) return type;
  }
  return model::WorkloadType::kDeployment;
}

}  // namespace

model::WorkloadPtr ForwardedSource(const state::MeshSnapshot& snapshot, const route::Sender& sender,
                                   std::string_view forwarded_network, std::string_view baggage) {
  if (!sender.identity) return nullptr;
  const auto& gateways = snapshot.NetworkGateways(forwarded_network);
  if (std::none_of(gateways.begin(), gateways.end(), [&](const model::GatewayAddress& gateway) {
        return route::HasIdentity(snapshot, gateway, *sender.identity);
      })) {
    return nullptr;
  }
  return Described(forwarded_network, baggage);
}

model::WorkloadPtr Described(std::string_view network, std::string_view baggage) {
  return Described(network, ParseBaggage(baggage));
}

model::WorkloadPtr Described(std::string_view network, const Baggage& said) {
  model::Workload out;
  out.network = network;
  out.cluster_id = said.cluster;
  out.ns = said.ns;
  out.SetName(said.workload);
  out.workload_name = said.workload;
  out.type = TypeOf(said.workload_type);
  out.canonical_name = said.service;
  out.canonical_revision = said.version;
  out.locality = {said.region, said.zone, ""};
  return model::WorkloadPtr(std::move(out));
}

}  // namespace qanat::ztunnel
