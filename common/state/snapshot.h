// SPDX-License-Identifier: Apache-2.0
// MeshSnapshot: everything a data-plane thread knows of the mesh, immutable. MeshState builds it on
// the main thread; workers get a shared_ptr by Post and read it without locks.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/authorization.h"
#include "common/model/workload.h"
#include "common/policy/policy.h"
#include "common/state/cow_index.h"

namespace qanat::state {

// Whether a control plane stands behind what is known.
enum class Freshness : uint8_t {
  kLive,     // it does, or did within the life of this process; also what a local file says
  kSaved,    // it was read from disk at the start, and no control plane has confirmed it yet
  kExpired,  // ... and that is longer ago than it may be
};
std::string_view ToString(Freshness freshness);  // "live", "saved", "expired"

class MeshSnapshot {
 public:
  MeshSnapshot() = default;

  model::WorkloadPtr WorkloadByUid(std::string_view uid) const;
  // Of several on one address: a pod before others, then one that speaks HBONE.
  model::WorkloadPtr WorkloadByAddress(std::string_view network, const net::IpAddress& ip) const;
  std::vector<model::WorkloadPtr> WorkloadsByAddress(std::string_view network,
                                                     const net::IpAddress& ip) const;
  model::ServicePtr ServiceByKey(std::string_view key) const;  // "ns/hostname"
  // The best of the services of that name as seen from `client_ns`: of that namespace, else the
  // canonical one, else of the preferred namespace, else the first.
  model::ServicePtr ServiceByHostname(std::string_view hostname, std::string_view client_ns,
                                      std::string_view preferred_ns = {}) const;
  model::ServicePtr ServiceByVip(std::string_view network, const net::IpAddress& ip,
                                 std::string_view client_ns) const;
  bool HasServiceAt(std::string_view network, const net::IpAddress& ip) const;  // seen by anybody
  const model::EndpointList& EndpointsOf(const model::Service& service) const;
  // The same, to be kept; the same object as long as nothing of it changes. Null: there are none.
  std::shared_ptr<const model::EndpointList> EndpointListOf(const model::Service& service) const;

  // On demand only: whether the server said that nobody has this name ("network/IP", a uid,
  // "namespace/hostname").
  bool Absent(std::string_view name) const;

  // How the workloads of that network are reached from others: their gateways, each once.
  const std::vector<model::GatewayAddress>& NetworkGateways(std::string_view network) const;

  policy::PolicySet PoliciesFor(const model::Workload& workload) const;
  model::PolicyPtr PolicyByName(std::string_view key) const;

  uint64_t version() const { return version_; }  // grows with every published change
  // Grows when anything changed that a verdict on a live connection depends on.
  uint64_t policy_version() const { return policy_version_; }
  Freshness freshness() const { return freshness_; }
  // When what is not live was known to be the present state.
  std::chrono::system_clock::time_point current_at() const { return current_at_; }

  // Each in turn, for config_dump; order unspecified.
  void ForEachWorkload(const std::function<void(const model::WorkloadPtr&)>& visit) const;
  void ForEachService(const std::function<void(const model::ServicePtr&)>& visit) const;
  void ForEachPolicy(const std::function<void(const model::PolicyPtr&)>& visit) const;
  size_t workload_count() const { return workloads_.size(); }
  size_t service_count() const { return services_.size(); }

 private:
  friend class MeshState;
  struct PolicyTable;
  struct Received {
    KeptText uid;
    uint64_t serial = 0;
  };
  struct ServiceEndpoints {
    model::SharedText service;
    std::shared_ptr<const model::EndpointList> list;
  };
  // Values are found by what is in them. Several may be under an address or a hostname.
  template <typename Value>
  using ByPod = CowIndex<Value, 256>;
  template <typename Value>
  using ByService = CowIndex<Value, 64>;

  const ServiceEndpoints* FindEndpoints(std::string_view ns, std::string_view hostname) const;
  template <typename Visit>
  void ForEachAt(std::string_view network, const net::IpAddress& ip, const Visit& visit) const;
  // Of services whose address is that one.
  template <typename Visit>
  void ForEachServiceAt(std::string_view network, const net::IpAddress& ip,
                        const Visit& visit) const;

  ByPod<model::WorkloadPtr> workloads_;  // by uid
  ByPod<model::WorkloadPtr> by_address_;
  ByPod<Received> received_;               // by uid: the last update of those that name policies
  ByService<model::ServicePtr> services_;  // by key
  ByService<model::ServicePtr> by_hostname_;
  ByService<model::ServicePtr> by_vip_;
  std::shared_ptr<const std::vector<model::ServicePtr>> with_blocks_;  // services with CIDR VIPs
  ByService<ServiceEndpoints> endpoints_;
  using GatewayMap = std::map<std::string, std::vector<model::GatewayAddress>, std::less<>>;
  std::shared_ptr<const GatewayMap> network_gateways_;  // none: null
  std::shared_ptr<const PolicyTable> policies_;
  ByService<std::string> absent_;
  uint64_t version_ = 0;
  uint64_t policy_version_ = 0;
  Freshness freshness_ = Freshness::kLive;
  std::chrono::system_clock::time_point current_at_;
};
using SnapshotPtr = std::shared_ptr<const MeshSnapshot>;

}  // namespace qanat::state
