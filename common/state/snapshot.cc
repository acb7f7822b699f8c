// SPDX-License-Identifier: Apache-2.0
#include "common/state/snapshot.h"

#include <algorithm>

#include "common/state/policy_table.h"

namespace qanat::state {
namespace {

const model::EndpointList kNoEndpoints;

bool Visible(const model::Service& service, std::string_view client_ns) {
  return !service.namespace_only || service.ns == client_ns;
}

// Stock ztunnel's order: visible to the client, then of its own namespace, then canonical, then
// the first.
template <typename List>
model::ServicePtr Best(const List& services, std::string_view client_ns,
                       std::string_view preferred_ns = {}) {
  model::ServicePtr best;
  auto score = [&](const model::Service& s) {
    return (s.ns == client_ns ? 4 : 0) + (s.canonical ? 2 : 0) + (s.ns == preferred_ns ? 1 : 0);
  };
  for (const model::ServicePtr& service : services) {
    if (!Visible(*service, client_ns)) continue;
    if (best == nullptr || score(*service) > score(*best)) best = service;
  }
  return best;
}

}  // namespace

std::string_view ToString(Freshness freshness) {
  switch (freshness) {
    case Freshness::kLive: return "live";
    case Freshness::kSaved: return "saved";
    case Freshness::kExpired: return "expired";
  }
  return "";
}

model::WorkloadPtr MeshSnapshot::WorkloadByUid(std::string_view uid) const {
  const auto* item = workloads_.FindItem(uid);
  return item == nullptr ? nullptr : item->first.workload;
}

std::vector<model::WorkloadPtr> MeshSnapshot::WorkloadsByAddress(std::string_view network,
                                                                 const net::IpAddress& ip) const {
  const auto* found = by_address_.Find(AddressView{network, ip});
  return found == nullptr ? std::vector<model::WorkloadPtr>{} : *found;
}

model::WorkloadPtr MeshSnapshot::WorkloadByAddress(std::string_view network,
                                                   const net::IpAddress& ip) const {
  const auto* found = by_address_.Find(AddressView{network, ip});
  if (found == nullptr) return nullptr;
  model::WorkloadPtr best;
  auto score = [](const model::Workload& w) {
    return (w.uid.find("//Pod/") != std::string::npos ? 2 : 0) +
           (w.protocol == model::TunnelProtocol::kHbone ? 1 : 0);
  };
  for (const model::WorkloadPtr& workload : *found) {
    if (best == nullptr || score(*workload) > score(*best)) best = workload;
  }
  return best;
}

model::ServicePtr MeshSnapshot::ServiceByKey(std::string_view key) const {
  const model::ServicePtr* found = services_.Find(key);
  return found == nullptr ? nullptr : *found;
}

model::ServicePtr MeshSnapshot::ServiceByHostname(std::string_view hostname,
                                                  std::string_view client_ns,
                                                  std::string_view preferred_ns) const {
  const auto* found = by_hostname_.Find(hostname);
  return found == nullptr ? nullptr : Best(*found, client_ns, preferred_ns);
}

model::ServicePtr MeshSnapshot::ServiceByVip(std::string_view network, const net::IpAddress& ip,
                                             std::string_view client_ns) const {
  if (const auto* exact = by_vip_.Find(AddressView{network, ip})) {
    if (auto best = Best(*exact, client_ns)) return best;
  }
  if (with_blocks_ == nullptr) return nullptr;
  // Blocks: same namespace, then the longest prefix, then canonical.
  model::ServicePtr best;
  std::tuple<bool, unsigned, bool> best_score{};
  for (const model::ServicePtr& service : *with_blocks_) {
    if (!Visible(*service, client_ns)) continue;
    for (const model::ServiceAddress& address : service->addresses) {
      if (address.host || address.network != network || !address.cidr.Contains(ip)) continue;
      const std::tuple<bool, unsigned, bool> score{service->ns == client_ns, address.cidr.length(),
                                                   service->canonical};
      if (best == nullptr || score > best_score) {
        best = service;
        best_score = score;
      }
    }
  }
  return best;
}

bool MeshSnapshot::HasServiceAt(std::string_view network, const net::IpAddress& ip) const {
  if (by_vip_.Find(AddressView{network, ip}) != nullptr) return true;
  if (with_blocks_ == nullptr) return false;
  for (const model::ServicePtr& service : *with_blocks_) {
    for (const model::ServiceAddress& address : service->addresses) {
      if (!address.host && address.network == network && address.cidr.Contains(ip)) return true;
    }
  }
  return false;
}

const model::EndpointList& MeshSnapshot::EndpointsOf(const model::Service& service) const {
  const auto* found = endpoints_.Find(service.Key());
  return found == nullptr ? kNoEndpoints : **found;
}

std::shared_ptr<const model::EndpointList> MeshSnapshot::EndpointListOf(
    const model::Service& service) const {
  const auto* found = endpoints_.Find(service.Key());
  return found == nullptr ? nullptr : *found;
}

const std::vector<model::GatewayAddress>& MeshSnapshot::NetworkGateways(
    std::string_view network) const {
  static const std::vector<model::GatewayAddress> none;
  if (network_gateways_ == nullptr) return none;
  const auto it = network_gateways_->find(network);
  return it == network_gateways_->end() ? none : it->second;
}

policy::PolicySet MeshSnapshot::PoliciesFor(const model::Workload& workload) const {
  policy::PolicySet set;
  set.expired = freshness_ == Freshness::kExpired;
  if (policies_ == nullptr) {
    set.unknown = workload.authorization_policies;
    return set;
  }
  const PolicyTable& table = *policies_;
  if (const auto it = table.by_namespace.find(workload.ns); it != table.by_namespace.end()) {
    set.policies = it->second;
  }
  set.policies.insert(set.policies.end(), table.global.begin(), table.global.end());
  uint64_t received = 0;
  for (const std::string& name : workload.authorization_policies) {
    if (const auto it = table.by_name.find(name); it != table.by_name.end()) {
      // Listed and of a wider scope: it is in already.
      if (std::find(set.policies.begin(), set.policies.end(), it->second) == set.policies.end()) {
        set.policies.push_back(it->second);
      }
      continue;
    }
    if (const auto gone = table.removed.find(name); gone != table.removed.end()) {
      if (received == 0) {
        const uint64_t* serial = workloads_.Find(std::string_view(workload.uid));
        received = serial == nullptr ? UINT64_MAX : *serial;
      }
      if (received < gone->second) continue;
    }
    set.unknown.push_back(name);
  }
  return set;
}

model::PolicyPtr MeshSnapshot::PolicyByName(std::string_view key) const {
  if (policies_ == nullptr) return nullptr;
  const auto it = policies_->by_name.find(key);
  return it == policies_->by_name.end() ? nullptr : it->second;
}

void MeshSnapshot::ForEachWorkload(
    const std::function<void(const model::WorkloadPtr&)>& visit) const {
  workloads_.ForEach([&](const WorkloadKey& key, uint64_t) { visit(key.workload); });
}

void MeshSnapshot::ForEachService(
    const std::function<void(const model::ServicePtr&)>& visit) const {
  services_.ForEach([&](const auto&, const model::ServicePtr& service) { visit(service); });
}

void MeshSnapshot::ForEachPolicy(const std::function<void(const model::PolicyPtr&)>& visit) const {
  if (policies_ == nullptr) return;
  for (const auto& [name, policy] : policies_->by_name) visit(policy);
}

}  // namespace qanat::state
