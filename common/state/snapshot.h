// SPDX-License-Identifier: Apache-2.0
// MeshSnapshot: everything a data-plane thread knows of the mesh, immutable. MeshState builds it on
// the main thread; workers get a shared_ptr by Post and read it without locks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/authorization.h"
#include "common/model/workload.h"
#include "common/policy/policy.h"
#include "common/state/cow_map.h"

namespace qanat::state {

class MeshSnapshot {
 public:
  MeshSnapshot() = default;

  model::WorkloadPtr WorkloadByUid(std::string_view uid) const;
  // Of several on one address: a pod before others, then one that speaks HBONE.
  model::WorkloadPtr WorkloadByAddress(std::string_view network, const net::IpAddress& ip) const;
  std::vector<model::WorkloadPtr> WorkloadsByAddress(std::string_view network,
                                                     const net::IpAddress& ip) const;
  model::ServicePtr ServiceByKey(std::string_view key) const;  // "ns/hostname"
  // The best of the services of that name as seen from `client_ns`.
  model::ServicePtr ServiceByHostname(std::string_view hostname, std::string_view client_ns) const;
  model::ServicePtr ServiceByVip(std::string_view network, const net::IpAddress& ip,
                                 std::string_view client_ns) const;
  const model::EndpointList& EndpointsOf(const model::Service& service) const;

  policy::PolicySet PoliciesFor(const model::Workload& workload) const;
  model::PolicyPtr PolicyByName(std::string_view key) const;

  uint64_t version() const { return version_; }  // grows with every published change
  // Grows when anything changed that a verdict on a live connection depends on.
  uint64_t policy_version() const { return policy_version_; }

  // Each in turn, for config_dump; order unspecified.
  void ForEachWorkload(const std::function<void(const model::WorkloadPtr&)>& visit) const;
  void ForEachService(const std::function<void(const model::ServicePtr&)>& visit) const;
  void ForEachPolicy(const std::function<void(const model::PolicyPtr&)>& visit) const;
  size_t workload_count() const { return workloads_.size(); }
  size_t service_count() const { return services_.size(); }

 private:
  friend class MeshState;
  struct WorkloadEntry {
    model::WorkloadPtr workload;
    uint64_t received = 0;  // serial of the update that brought it
  };
  using AddressMap = CowMap<model::NetworkAddress, std::vector<model::WorkloadPtr>, AddressHash>;
  using ServiceMap = CowMap<std::string, model::ServicePtr, StringHash>;
  using ServicesMap = CowMap<std::string, std::vector<model::ServicePtr>, StringHash>;
  using VipMap = CowMap<model::NetworkAddress, std::vector<model::ServicePtr>, AddressHash>;
  using EndpointMap = CowMap<std::string, std::shared_ptr<const model::EndpointList>, StringHash>;
  struct PolicyTable;

  CowMap<std::string, WorkloadEntry, StringHash> workloads_;
  AddressMap by_address_;
  ServiceMap services_;
  ServicesMap by_hostname_;
  VipMap by_vip_;
  std::shared_ptr<const std::vector<model::ServicePtr>> with_blocks_;  // services with CIDR VIPs
  EndpointMap endpoints_;
  std::shared_ptr<const PolicyTable> policies_;
  uint64_t version_ = 0;
  uint64_t policy_version_ = 0;
};
using SnapshotPtr = std::shared_ptr<const MeshSnapshot>;

}  // namespace qanat::state
