// SPDX-License-Identifier: Apache-2.0
#include "common/state/mesh_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "common/state/decode.h"
#include "common/state/policy_table.h"

namespace qanat::state {
namespace {

template <typename Map, typename Key, typename Ptr>
void AddTo(Map& map, const Key& key, const Ptr& value) {
  map.Mutable(key).push_back(value);
}

template <typename Map, typename Key, typename Ptr>
void RemoveFrom(Map& map, const Key& key, const Ptr& value) {
  if (map.Find(key) == nullptr) return;
  auto& list = map.Mutable(key);
  std::erase(list, value);
  if (list.empty()) map.Erase(key);
}

std::string JoinProblems(const std::vector<std::string>& problems) {
  std::string out = "applied, and closed for what is not understood: ";
  for (size_t i = 0; i < problems.size(); ++i) out.append(i == 0 ? "" : ", ").append(problems[i]);
  return out;
}

}  // namespace

struct MeshState::Impl {
  using Table = MeshSnapshot::PolicyTable;

  MeshSnapshot next;
  std::shared_ptr<Table> table = std::make_shared<Table>();
  std::vector<model::ServicePtr> with_blocks;
  // Endpoint lists are rebuilt once per publish, however many of their workloads changed.
  // Service -> workloads that came to it or left it, of one uid perhaps several.
  std::unordered_map<std::string, std::vector<model::WorkloadPtr>> touched;
  SnapshotPtr published;
  uint64_t serial = 1;
  bool changed = false;
  bool policies_changed = false;
  bool blocks_changed = false;
  bool verdicts_changed = false;
  // Network -> its gateways -> how many workloads name them.
  std::map<std::string, std::map<model::GatewayAddress, size_t>> gateways;
  bool gateways_changed = false;

  // ---- workloads
  void IndexWorkload(const model::WorkloadPtr& workload, bool add) {
    // A workload on the host's network has no address of its own: it is found by uid only.
    if (workload->network_mode == model::NetworkMode::kStandard) {
      for (const net::IpAddress& ip : workload->addresses) {
        const AddressKey key{workload->network, ip};
        add ? AddTo(next.by_address_, key, workload) : RemoveFrom(next.by_address_, key, workload);
      }
    }
    for (const auto& [service, ports] : workload->services) {
      touched[service].push_back(workload);
    }
    if (workload->network_gateway) CountGateway(*workload, add);
  }

  void CountGateway(const model::Workload& workload, bool add) {
    auto& of_network = gateways[workload.network];
    size_t& count = of_network[*workload.network_gateway];
    gateways_changed = gateways_changed || count <= 1;
    add ? ++count : --count;
    if (count > 0) return;
    of_network.erase(*workload.network_gateway);
    if (of_network.empty()) gateways.erase(workload.network);
  }

  std::shared_ptr<const MeshSnapshot::GatewayMap> GatewayTable() const {
    auto out = std::make_shared<MeshSnapshot::GatewayMap>();
    for (const auto& [network, of_network] : gateways) {
      for (const auto& [gateway, count] : of_network) (*out)[network].push_back(gateway);
    }
    return out;
  }

  void Upsert(model::Workload value) {
    const auto* item = next.workloads_.FindItem(std::string_view(value.uid));
    const model::WorkloadPtr old = item == nullptr ? nullptr : item->first.workload;
    changed = verdicts_changed = true;
    if (old != nullptr && *old == value) {
      // The same again still counts as resent: names of removed policies are now an error.
      next.workloads_.Mutable({old}) = ++serial;
      return;
    }
    if (old != nullptr) {
      IndexWorkload(old, false);
      next.workloads_.Erase(WorkloadKey{old});
    }
    ShareServices(value);
    auto workload = std::make_shared<const model::Workload>(std::move(value));
    next.workloads_.Mutable({workload}) = ++serial;
    IndexWorkload(workload, true);
  }

  // All pods of a service have the same list of services: it is kept once.
  void ShareServices(model::Workload& value) {
    if (value.services.empty()) return;
    const std::string& service = value.services[0].first;
    const model::Workload* like = nullptr;
    if (const auto it = touched.find(service); it != touched.end()) {
      like = it->second.back().get();
    } else if (const auto* known = next.endpoints_.Find(service)) {
      like = (*known)->front().workload.get();
    }
    if (like != nullptr && like->services == value.services) value.services = like->services;
  }

  bool RemoveWorkload(std::string_view uid) {
    const auto* item = next.workloads_.FindItem(uid);
    if (item == nullptr) return false;
    const model::WorkloadPtr workload = item->first.workload;
    IndexWorkload(workload, false);
    next.workloads_.Erase(WorkloadKey{workload});
    changed = verdicts_changed = true;
    return true;
  }

  // ---- services
  void IndexService(const model::ServicePtr& service, bool add) {
    for (const model::ServiceAddress& address : service->addresses) {
      if (!address.host) {
        blocks_changed = true;
        continue;
      }
      const AddressKey key{address.network, address.cidr.ip()};
      add ? AddTo(next.by_vip_, key, service) : RemoveFrom(next.by_vip_, key, service);
    }
    add ? AddTo(next.by_hostname_, service->hostname, service)
        : RemoveFrom(next.by_hostname_, service->hostname, service);
    if (!blocks_changed) return;
    std::erase(with_blocks, service);
    const bool has_block = std::any_of(service->addresses.begin(), service->addresses.end(),
                                       [](const auto& a) { return !a.host; });
    if (add && has_block) with_blocks.push_back(service);
  }

  void Upsert(model::Service value) {
    const std::string key = value.Key();
    const model::ServicePtr* old = next.services_.Find(key);
    if (old != nullptr && **old == value) return;
    if (old != nullptr) IndexService(model::ServicePtr(*old), false);
    auto service = std::make_shared<const model::Service>(std::move(value));
    next.services_.Mutable(key) = service;
    IndexService(service, true);
    changed = true;
  }

  bool RemoveService(std::string_view key) {
    const model::ServicePtr* old = next.services_.Find(key);
    if (old == nullptr) return false;
    const model::ServicePtr service = *old;
    IndexService(service, false);
    next.services_.Erase(std::string(key));
    changed = true;
    return true;
  }

  void RebuildEndpoints() {
    for (const auto& [service, workloads] : touched) {
      std::unordered_set<std::string_view> uids;
      for (const model::WorkloadPtr& workload : workloads) uids.insert(workload->uid);
      auto list = std::make_shared<model::EndpointList>();
      if (const auto* old = next.endpoints_.Find(service)) {
        list->reserve((*old)->size() + uids.size());
        for (const model::Endpoint& endpoint : **old) {
          if (!uids.contains(endpoint.workload->uid)) list->push_back(endpoint);
        }
      }
      for (const std::string_view uid : uids) {
        const auto* item = next.workloads_.FindItem(uid);
        if (item == nullptr) continue;
        const model::WorkloadPtr& workload = item->first.workload;
        if (const model::PortList* ports = workload->PortsOf(service)) {
          list->push_back({workload, ports});
        }
      }
      if (list->empty()) {
        next.endpoints_.Erase(service);
      } else {
        next.endpoints_.Mutable(service) = std::move(list);
      }
    }
    touched.clear();
  }

  // ---- policies
  Table& OwnTable() {
    if (!policies_changed) table = std::make_shared<Table>(*table);
    policies_changed = changed = verdicts_changed = true;
    return *table;
  }

  void ErasePolicy(Table& own, const std::string& key) {
    const auto it = own.by_name.find(key);
    if (it == own.by_name.end()) return;
    const model::PolicyPtr policy = it->second;
    own.by_name.erase(it);
    std::erase(own.global, policy);
    if (const auto ns = own.by_namespace.find(policy->ns); ns != own.by_namespace.end()) {
      std::erase(ns->second, policy);
      if (ns->second.empty()) own.by_namespace.erase(ns);
    }
  }

  void Upsert(model::Policy value) {
    const std::string key = value.Key();
    if (const auto it = table->by_name.find(key);
        it != table->by_name.end() && *it->second == value) {
      return;
    }
    Table& own = OwnTable();
    ErasePolicy(own, key);
    own.removed.erase(key);
    auto policy = std::make_shared<const model::Policy>(std::move(value));
    own.by_name[key] = policy;
    switch (policy->scope) {
      case model::PolicyScope::kGlobal: own.global.push_back(policy); break;
      case model::PolicyScope::kNamespace: own.by_namespace[policy->ns].push_back(policy); break;
      case model::PolicyScope::kSelector: break;
    }
  }

  void RemovePolicy(const std::string& key) {
    if (!table->by_name.contains(key)) return;
    Table& own = OwnTable();
    ErasePolicy(own, key);
    own.removed[key] = ++serial;
    constexpr size_t kPruneAt = 1024;
    if (own.removed.size() > kPruneAt) PruneRemoved(own);
  }

  // Keeps only the removals that some workload still names.
  void PruneRemoved(Table& own) {
    std::set<std::string, std::less<>> named;
    next.workloads_.ForEach([&](const WorkloadKey& key, uint64_t) {
      for (const std::string& name : key.workload->authorization_policies) {
        if (own.removed.contains(name)) named.insert(name);
      }
    });
    std::erase_if(own.removed, [&](const auto& item) { return !named.contains(item.first); });
  }
};

MeshState::MeshState() : impl_(std::make_unique<Impl>()) {
  impl_->next.policies_ = impl_->table;
  impl_->published = std::make_shared<const MeshSnapshot>(impl_->next);
}
MeshState::~MeshState() = default;
MeshState::MeshState(MeshState&&) noexcept = default;
MeshState& MeshState::operator=(MeshState&&) noexcept = default;

Status MeshState::UpsertAddress(std::string_view, std::string_view bytes) {
  QANAT_ASSIGN_OR_RETURN(auto decoded, DecodeAddress(bytes));
  std::visit([this](auto& value) { impl_->Upsert(std::move(value)); }, decoded);
  return {};
}

void MeshState::RemoveAddress(std::string_view name) {
  if (!impl_->RemoveWorkload(name)) impl_->RemoveService(name);
}

void MeshState::MarkAbsent(const std::string& name) {
  impl_->next.absent_.Mutable(name) = true;
  impl_->changed = true;
}

void MeshState::ForgetAbsent(const std::string& name) {
  if (impl_->next.absent_.Erase(name)) impl_->changed = true;
}

Status MeshState::UpsertAuthorization(std::string_view, std::string_view bytes, bool* applied) {
  if (applied != nullptr) *applied = false;
  QANAT_ASSIGN_OR_RETURN(auto policy, DecodeAuthorization(bytes));
  if (applied != nullptr) *applied = true;
  const std::vector<std::string> problems = policy.problems;
  impl_->Upsert(std::move(policy));
  if (!problems.empty()) return Fail(Code::kInvalidArgument, JoinProblems(problems));
  return {};
}

void MeshState::RemoveAuthorization(std::string_view name) {
  impl_->RemovePolicy(std::string(name));
}

void MeshState::SetFreshness(Freshness freshness,
                             std::chrono::system_clock::time_point current_at) {
  MeshSnapshot& next = impl_->next;
  if (next.freshness_ == freshness && next.current_at_ == current_at) return;
  next.freshness_ = freshness;
  next.current_at_ = current_at;
  impl_->changed = impl_->verdicts_changed = true;
}

SnapshotPtr MeshState::Publish() {
  Impl& s = *impl_;
  if (!s.changed) return s.published;
  s.RebuildEndpoints();
  MeshSnapshot out;
  out.workloads_ = s.next.workloads_.Freeze();
  out.by_address_ = s.next.by_address_.Freeze();
  out.services_ = s.next.services_.Freeze();
  out.by_hostname_ = s.next.by_hostname_.Freeze();
  out.by_vip_ = s.next.by_vip_.Freeze();
  out.endpoints_ = s.next.endpoints_.Freeze();
  out.absent_ = s.next.absent_.Freeze();
  if (s.blocks_changed) {
    s.next.with_blocks_ = std::make_shared<const std::vector<model::ServicePtr>>(s.with_blocks);
  }
  out.with_blocks_ = s.next.with_blocks_;
  if (s.gateways_changed) s.next.network_gateways_ = s.GatewayTable();
  out.network_gateways_ = s.next.network_gateways_;
  out.policies_ = s.table;
  out.version_ = ++s.next.version_;
  if (s.verdicts_changed) ++s.next.policy_version_;
  out.policy_version_ = s.next.policy_version_;
  out.freshness_ = s.next.freshness_;
  out.current_at_ = s.next.current_at_;
  s.changed = s.policies_changed = s.blocks_changed = s.verdicts_changed = false;
  s.gateways_changed = false;
  s.published = std::make_shared<const MeshSnapshot>(std::move(out));
  return s.published;
}

}  // namespace qanat::state
