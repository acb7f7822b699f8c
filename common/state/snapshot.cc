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
class BestService {
 public:
  explicit BestService(std::string_view client_ns, std::string_view preferred_ns = {})
      : client_ns_(client_ns), preferred_ns_(preferred_ns) {}
  void Add(const model::ServicePtr& service) {
    if (!Visible(*service, client_ns_)) return;
    const int score = (service->ns == client_ns_ ? 4 : 0) + (service->canonical ? 2 : 0) +
                      (service->ns == preferred_ns_ ? 1 : 0);
    if (best_ != nullptr && score <= score_) return;
    best_ = service;
    score_ = score;
  }
  model::ServicePtr Take() { return std::move(best_); }

 private:
  const std::string_view client_ns_, preferred_ns_;
  model::ServicePtr best_;
  int score_ = 0;
};

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
  const auto* found =
      workloads_.Find(HashOf(uid), [uid](const auto& workload) { return workload->uid == uid; });
  return found == nullptr ? nullptr : *found;
}

template <typename Visit>
void MeshSnapshot::ForEachAt(std::string_view network, const net::IpAddress& ip,
                             const Visit& visit) const {
  by_address_.ForEachWith(HashOf(network, ip), [&](const model::WorkloadPtr& workload) {
    if (workload->network == network && workload->HasAddress(ip)) visit(workload);
  });
}

std::vector<model::WorkloadPtr> MeshSnapshot::WorkloadsByAddress(std::string_view network,
                                                                 const net::IpAddress& ip) const {
  std::vector<model::WorkloadPtr> out;
  ForEachAt(network, ip, [&](const model::WorkloadPtr& workload) { out.push_back(workload); });
  return out;
}

model::WorkloadPtr MeshSnapshot::WorkloadByAddress(std::string_view network,
                                                   const net::IpAddress& ip) const {
  model::WorkloadPtr best;
  auto score = [](const model::Workload& w) {
    return (w.uid.view().find("//Pod/") != std::string_view::npos ? 2 : 0) +
           (w.protocol == model::TunnelProtocol::kHbone ? 1 : 0);
  };
  ForEachAt(network, ip, [&](const model::WorkloadPtr& workload) {
    if (best == nullptr || score(*workload) > score(*best)) best = workload;
  });
  return best;
}

model::ServicePtr MeshSnapshot::ServiceByKey(std::string_view key) const {
  const ServiceKey wanted(key);
  const auto* found = services_.Find(HashOf(wanted.ns, wanted.hostname), [&](const auto& service) {
    return service->ns == wanted.ns && service->hostname == wanted.hostname;
  });
  return found == nullptr ? nullptr : *found;
}

model::ServicePtr MeshSnapshot::ServiceByHostname(std::string_view hostname,
                                                  std::string_view client_ns,
                                                  std::string_view preferred_ns) const {
  BestService best(client_ns, preferred_ns);
  by_hostname_.ForEachWith(HashOf(hostname), [&](const model::ServicePtr& service) {
    if (service->hostname == hostname) best.Add(service);
  });
  return best.Take();
}

template <typename Visit>
void MeshSnapshot::ForEachServiceAt(std::string_view network, const net::IpAddress& ip,
                                    const Visit& visit) const {
  by_vip_.ForEachWith(HashOf(network, ip), [&](const model::ServicePtr& service) {
    if (service->HasAddress(network, ip)) visit(service);
  });
}

model::ServicePtr MeshSnapshot::ServiceByVip(std::string_view network, const net::IpAddress& ip,
                                             std::string_view client_ns) const {
  BestService exact(client_ns);
  ForEachServiceAt(network, ip, [&](const model::ServicePtr& service) { exact.Add(service); });
  if (auto found = exact.Take()) return found;
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
  bool found = false;
  ForEachServiceAt(network, ip, [&](const model::ServicePtr&) { found = true; });
  if (found) return true;
  if (with_blocks_ == nullptr) return false;
  for (const model::ServicePtr& service : *with_blocks_) {
    for (const model::ServiceAddress& address : service->addresses) {
      if (!address.host && address.network == network && address.cidr.Contains(ip)) return true;
    }
  }
  return false;
}

const MeshSnapshot::ServiceEndpoints* MeshSnapshot::FindEndpoints(std::string_view ns,
                                                                  std::string_view hostname) const {
  return endpoints_.Find(HashOf(ns, hostname), [&](const ServiceEndpoints& endpoints) {
    const ServiceKey key(endpoints.service.str());
    return key.ns == ns && key.hostname == hostname;
  });
}

const model::EndpointList& MeshSnapshot::EndpointsOf(const model::Service& service) const {
  const auto* found = FindEndpoints(service.ns, service.hostname);
  return found == nullptr ? kNoEndpoints : *found->list;
}

std::shared_ptr<const model::EndpointList> MeshSnapshot::EndpointListOf(
    const model::Service& service) const {
  const auto* found = FindEndpoints(service.ns, service.hostname);
  return found == nullptr ? nullptr : found->list;
}

bool MeshSnapshot::Absent(std::string_view name) const {
  return absent_.Find(HashOf(name), [name](const auto& absent) { return absent == name; }) !=
         nullptr;
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
    set.unknown = workload.authorization_policies.whole();
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
        const Received* last = received_.Find(
            HashOf(workload.uid), [&](const Received& known) { return known.uid == workload.uid; });
        received = last == nullptr ? UINT64_MAX : last->serial;
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
  workloads_.ForEach(visit);
}

void MeshSnapshot::ForEachService(
    const std::function<void(const model::ServicePtr&)>& visit) const {
  services_.ForEach(visit);
}

void MeshSnapshot::ForEachPolicy(const std::function<void(const model::PolicyPtr&)>& visit) const {
  if (policies_ == nullptr) return;
  for (const auto& [name, policy] : policies_->by_name) visit(policy);
}

}  // namespace qanat::state
