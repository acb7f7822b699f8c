// SPDX-License-Identifier: Apache-2.0
#include "common/state/mesh_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "common/state/decode.h"
#include "common/state/policy_table.h"

namespace qanat::state {
namespace {

// Into an index or out of it.
template <typename Index, typename Ptr>
void Change(Index& index, uint64_t hash, const Ptr& value, bool add) {
  if (add) {
    index.Insert(hash, value);
  } else {
    index.Erase(hash, [&](const Ptr& known) { return known == value; });
  }
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
  std::unordered_map<model::SharedText, std::vector<model::WorkloadPtr>, model::SharedText::Hash>
      touched;
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
        Change(next.by_address_, HashOf(workload->network, ip), workload, add);
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
    const model::WorkloadPtr old = next.WorkloadByUid(value.uid);
    changed = verdicts_changed = true;
    // The same again still counts as resent: names of removed policies are now an error.
    NoteReceived(value);
    if (old != nullptr && *old == value) return;
    if (old != nullptr) IndexWorkload(old, false);
    ShareServices(value);
    const model::WorkloadPtr workload(std::move(value));
    next.workloads_.Put(
        HashOf(workload->uid), [&](const auto& known) { return known == old; }, workload);
    IndexWorkload(workload, true);
  }

  void NoteReceived(const model::Workload& workload) {
    const auto same = [&](const auto& known) { return known.uid == workload.uid; };
    if (workload.authorization_policies.empty()) {
      next.received_.Erase(HashOf(workload.uid), same);
    } else {
      next.received_.Put(HashOf(workload.uid), same, {workload.uid, ++serial});
    }
  }

  // All pods of a service have the same list of services: it is kept once.
  void ShareServices(model::Workload& value) {
    if (value.services.empty()) return;
    const model::SharedText& service = value.services[0].first;
    const model::Workload* like = nullptr;
    if (const auto it = touched.find(service); it != touched.end()) {
      like = it->second.back().get();
    } else if (const auto* known = EndpointsOf(service)) {
      like = known->list->front().workload.get();
    }
    if (like != nullptr && like->services == value.services) value.services = like->services;
  }

  bool RemoveWorkload(std::string_view uid) {
    const model::WorkloadPtr workload = next.WorkloadByUid(uid);
    if (workload == nullptr) return false;
    IndexWorkload(workload, false);
    Change(next.workloads_, HashOf(uid), workload, false);
    next.received_.Erase(HashOf(uid), [uid](const auto& known) { return known.uid == uid; });
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
      Change(next.by_vip_, HashOf(address.network, address.cidr.ip()), service, add);
    }
    Change(next.by_hostname_, HashOf(service->hostname), service, add);
    if (!blocks_changed) return;
    std::erase(with_blocks, service);
    const bool has_block = std::any_of(service->addresses.begin(), service->addresses.end(),
                                       [](const auto& a) { return !a.host; });
    if (add && has_block) with_blocks.push_back(service);
  }

  void Upsert(model::Service value) {
    const model::ServicePtr old = next.ServiceByKey(value.Key());
    if (old != nullptr && *old == value) return;
    if (old != nullptr) IndexService(old, false);
    const auto service = std::make_shared<const model::Service>(std::move(value));
    next.services_.Put(
        HashOf(service->ns, service->hostname), [&](const auto& known) { return known == old; },
        service);
    IndexService(service, true);
    changed = true;
  }

  bool RemoveService(std::string_view key) {
    const model::ServicePtr service = next.ServiceByKey(key);
    if (service == nullptr) return false;
    IndexService(service, false);
    Change(next.services_, HashOf(service->ns, service->hostname), service, false);
    changed = true;
    return true;
  }

  // ---- endpoints
  static uint64_t EndpointsHash(const model::SharedText& service) {
    const ServiceKey key(service.str());
    return HashOf(key.ns, key.hostname);
  }
  const MeshSnapshot::ServiceEndpoints* EndpointsOf(const model::SharedText& service) const {
    return next.endpoints_.Find(EndpointsHash(service),
                                [&](const auto& known) { return known.service == service; });
  }

  static bool ByUid(const model::WorkloadPtr& a, const model::WorkloadPtr& b) {
    return a->uid < b->uid;
  }

  // What stays of the old list, then what came, each workload once.
  void RebuildEndpoints() {
    while (!touched.empty()) {
      const auto node = touched.extract(touched.begin());
      const model::SharedText& service = node.key();
      std::vector<model::WorkloadPtr>& workloads = node.mapped();
      std::sort(workloads.begin(), workloads.end(), ByUid);
      const auto same = [](const auto& a, const auto& b) { return a->uid == b->uid; };
      workloads.erase(std::unique(workloads.begin(), workloads.end(), same), workloads.end());
      auto list = std::make_shared<model::EndpointList>();
      const auto* old = EndpointsOf(service);
      list->reserve((old == nullptr ? 0 : old->list->size()) + workloads.size());
      if (old != nullptr) {
        for (const model::Endpoint& endpoint : *old->list) {
          if (!std::binary_search(workloads.begin(), workloads.end(), endpoint.workload, ByUid)) {
            list->push_back(endpoint);
          }
        }
      }
      for (const model::WorkloadPtr& touched_one : workloads) {
        const model::WorkloadPtr workload = next.WorkloadByUid(touched_one->uid);
        if (workload == nullptr) continue;
        if (const model::PortList* ports = workload->PortsOf(service)) {
          list->push_back({workload, ports});
        }
      }
      const auto known = [&](const auto& endpoints) { return endpoints.service == service; };
      if (list->empty()) {
        next.endpoints_.Erase(EndpointsHash(service), known);
      } else {
        next.endpoints_.Put(EndpointsHash(service), known, {service, std::move(list)});
      }
    }
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
    next.workloads_.ForEach([&](const model::WorkloadPtr& workload) {
      for (const std::string& name : workload->authorization_policies) {
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

Status MeshState::UpsertAddress(const KeptText& name, std::string_view bytes) {
  QANAT_ASSIGN_OR_RETURN(auto decoded, DecodeAddress(bytes));
  if (auto* workload = std::get_if<model::Workload>(&decoded)) {
    if (workload->uid == name) workload->uid = name;  // one piece of memory
  }
  std::visit([this](auto& value) { impl_->Upsert(std::move(value)); }, decoded);
  return {};
}

void MeshState::RemoveAddress(std::string_view name) {
  if (!impl_->RemoveWorkload(name)) impl_->RemoveService(name);
}

void MeshState::MarkAbsent(const std::string& name) {
  impl_->next.absent_.Put(HashOf(name), [&](const auto& known) { return known == name; }, name);
  impl_->changed = true;
}

void MeshState::ForgetAbsent(const std::string& name) {
  const auto same = [&](const auto& known) { return known == name; };
  if (impl_->next.absent_.Erase(HashOf(name), same)) impl_->changed = true;
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
  out.received_ = s.next.received_.Freeze();
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
