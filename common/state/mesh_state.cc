// SPDX-License-Identifier: Apache-2.0
#include "common/state/mesh_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "common/state/decode.h"
#include "common/state/policy_table.h"

namespace qanat::state {
namespace {

using model::NetworkAddress;

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
  std::unordered_map<std::string, std::unordered_set<std::string>> touched;  // service -> uids
  SnapshotPtr published;
  uint64_t serial = 1;
  bool changed = false;
  bool policies_changed = false;
  bool blocks_changed = false;
  bool verdicts_changed = false;

  // ---- workloads
  void IndexWorkload(const model::WorkloadPtr& workload, bool add) {
    // A workload on the host's network has no address of its own: it is found by uid only.
    if (workload->network_mode == model::NetworkMode::kStandard) {
      for (const net::IpAddress& ip : workload->addresses) {
        const NetworkAddress key{workload->network, ip};
        add ? AddTo(next.by_address_, key, workload) : RemoveFrom(next.by_address_, key, workload);
      }
    }
    for (const auto& [service, ports] : workload->services) {
      touched[service].insert(workload->uid);
    }
  }

  void Upsert(model::Workload value) {
    const std::string uid = value.uid;
    const auto* old = next.workloads_.Find(uid);
    if (old != nullptr && *old->workload == value) {
      // The same again still counts as resent: names of removed policies are now an error.
      next.workloads_.Mutable(uid).received = ++serial;
      changed = verdicts_changed = true;
      return;
    }
    if (old != nullptr) IndexWorkload(model::WorkloadPtr(old->workload), false);
    auto workload = std::make_shared<const model::Workload>(std::move(value));
    next.workloads_.Mutable(uid) = {workload, ++serial};
    IndexWorkload(workload, true);
    changed = verdicts_changed = true;
  }

  bool RemoveWorkload(std::string_view uid) {
    const auto* old = next.workloads_.Find(uid);
    if (old == nullptr) return false;
    const model::WorkloadPtr workload = old->workload;
    IndexWorkload(workload, false);
    next.workloads_.Erase(workload->uid);
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
      const NetworkAddress key{address.network, address.cidr.ip()};
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
    for (const auto& [service, uids] : touched) {
      auto list = std::make_shared<model::EndpointList>();
      if (const auto* old = next.endpoints_.Find(service)) {
        list->reserve((*old)->size() + uids.size());
        for (const model::Endpoint& endpoint : **old) {
          if (!uids.contains(endpoint.workload->uid)) list->push_back(endpoint);
        }
      }
      for (const std::string& uid : uids) {
        const auto* entry = next.workloads_.Find(uid);
        if (entry == nullptr) continue;
        if (const model::PortList* ports = entry->workload->PortsOf(service)) {
          list->push_back({entry->workload, ports});
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
    next.workloads_.ForEach([&](const auto&, const auto& entry) {
      for (const std::string& name : entry.workload->authorization_policies) {
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

Status MeshState::UpsertAddress(std::string_view, std::string_view bytes) {
  QANAT_ASSIGN_OR_RETURN(auto decoded, DecodeAddress(bytes));
  std::visit([this](auto&& value) { impl_->Upsert(std::move(value)); }, std::move(decoded));
  return {};
}

void MeshState::RemoveAddress(std::string_view name) {
  if (!impl_->RemoveWorkload(name)) impl_->RemoveService(name);
}

Status MeshState::UpsertAuthorization(std::string_view, std::string_view bytes) {
  QANAT_ASSIGN_OR_RETURN(auto policy, DecodeAuthorization(bytes));
  const std::vector<std::string> problems = policy.problems;
  impl_->Upsert(std::move(policy));
  if (!problems.empty()) return Fail(Code::kInvalidArgument, JoinProblems(problems));
  return {};
}

void MeshState::RemoveAuthorization(std::string_view name) {
  impl_->RemovePolicy(std::string(name));
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
  if (s.blocks_changed) {
    s.next.with_blocks_ = std::make_shared<const std::vector<model::ServicePtr>>(s.with_blocks);
  }
  out.with_blocks_ = s.next.with_blocks_;
  out.policies_ = s.table;
  out.version_ = ++s.next.version_;
  if (s.verdicts_changed) ++s.next.policy_version_;
  out.policy_version_ = s.next.policy_version_;
  s.changed = s.policies_changed = s.blocks_changed = s.verdicts_changed = false;
  s.published = std::make_shared<const MeshSnapshot>(std::move(out));
  return s.published;
}

}  // namespace qanat::state
