// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/route/gateways.h"

#include <algorithm>

#include "ztunnel/telemetry/headers.h"

namespace qanat::ztunnel {
namespace {

bool ServiceHasIdentity(const state::MeshSnapshot& snapshot, const model::Service& service,
                        const model::Identity& identity) {
  const auto& endpoints = snapshot.EndpointsOf(service);
  if (std::any_of(endpoints.begin(), endpoints.end(), [&](const model::Endpoint& endpoint) {
        return endpoint.workload->identity() == identity;
      })) {
    return true;
  }
  const auto& names = service.subject_alt_names;
  return std::find(names.begin(), names.end(), identity.ToString()) != names.end();
}

model::WorkloadType TypeOf(std::string_view name) {
  for (const auto type : {model::WorkloadType::kDeployment, model::WorkloadType::kCronJob,
                          model::WorkloadType::kPod, model::WorkloadType::kJob}) {
    if (name == ToString(type)) return type;
  }
  return model::WorkloadType::kDeployment;
}

}  // namespace

bool HasIdentity(const state::MeshSnapshot& snapshot, const model::GatewayAddress& gateway,
                 const model::Identity& identity) {
  if (const auto* host = std::get_if<model::NamespacedHostname>(&gateway.destination)) {
    const auto service = snapshot.ServiceByKey(host->Key());
    return service != nullptr && ServiceHasIdentity(snapshot, *service, identity);
  }
  const auto& address = std::get<model::NetworkAddress>(gateway.destination);
  for (const auto& workload : snapshot.WorkloadsByAddress(address.network, address.ip)) {
    if (workload->identity() == identity) return true;
  }
  const auto service = snapshot.ServiceByVip(address.network, address.ip, identity.ns);
  return service != nullptr && ServiceHasIdentity(snapshot, *service, identity);
}

bool IsGateway(const state::MeshSnapshot& snapshot, std::string_view network,
               const Sender& sender) {
  if (!sender.identity) return false;
  for (const auto& workload : snapshot.WorkloadsByAddress(network, sender.ip)) {
    if (workload->gateway && workload->identity() == *sender.identity) return true;
  }
  return false;
}

model::WorkloadPtr ForwardedSource(const state::MeshSnapshot& snapshot, const Sender& sender,
                                   std::string_view forwarded_network, std::string_view baggage) {
  if (!sender.identity) return nullptr;
  const auto& gateways = snapshot.NetworkGateways(forwarded_network);
  if (std::none_of(gateways.begin(), gateways.end(), [&](const model::GatewayAddress& gateway) {
        return HasIdentity(snapshot, gateway, *sender.identity);
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
