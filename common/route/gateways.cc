// SPDX-License-Identifier: Apache-2.0
#include "common/route/gateways.h"

#include <algorithm>

namespace qanat::route {
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

}  // namespace qanat::route
