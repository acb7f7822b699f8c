// SPDX-License-Identifier: Apache-2.0
#include "common/route/on_demand.h"

#include <fmt/format.h>

namespace qanat::route {
namespace {

class Missing {
 public:
  explicit Missing(const state::MeshSnapshot& snapshot) : snapshot_(snapshot) {}

  void Address(const std::string& network, const net::IpAddress& ip) {
    if (snapshot_.WorkloadByAddress(network, ip) != nullptr) return;
    // Whoever may see it: it is known or it is not.
    if (snapshot_.HasServiceAt(network, ip)) return;
    Add(NameOf(network, ip));
  }
  void Service(const std::string& key) {
    if (snapshot_.ServiceByKey(key) == nullptr) Add(key);
  }
  void Gateway(const model::GatewayAddress& gateway) {
    if (const auto* host = std::get_if<model::NamespacedHostname>(&gateway.destination)) {
      return Service(host->Key());
    }
    const auto& address = std::get<model::NetworkAddress>(gateway.destination);
    Address(address.network, address.ip);
  }
  void Around(const model::Workload& local) {
    if (local.waypoint) Gateway(*local.waypoint);
    for (const auto& [key, ports] : local.services) {
      const auto service = snapshot_.ServiceByKey(key);
      if (service == nullptr) {
        Add(key);
        continue;
      }
      if (service->waypoint) Gateway(*service->waypoint);
      for (const auto& weighted : service->weighted_waypoints) Gateway(weighted.destination);
    }
  }
  std::vector<std::string> Take() { return std::move(names_); }

 private:
  void Add(std::string name) {
    if (!snapshot_.Absent(name)) names_.push_back(std::move(name));
  }

  const state::MeshSnapshot& snapshot_;
  std::vector<std::string> names_;
};

}  // namespace

std::string NameOf(std::string_view network, const net::IpAddress& ip) {
  return fmt::format("{}/{}", network, ip.ToString());
}

std::string NameOf(const model::GatewayAddress& gateway) {
  if (const auto* host = std::get_if<model::NamespacedHostname>(&gateway.destination)) {
    return host->Key();
  }
  const auto& address = std::get<model::NetworkAddress>(gateway.destination);
  return NameOf(address.network, address.ip);
}

bool IsKnown(const state::MeshSnapshot& snapshot, std::string_view name) {
  const size_t slash = name.rfind('/');
  if (slash != std::string_view::npos) {
    if (const auto ip = net::IpAddress::Parse(name.substr(slash + 1))) {
      const std::string_view network = name.substr(0, slash);
      return snapshot.WorkloadByAddress(network, *ip) != nullptr ||
             snapshot.HasServiceAt(network, *ip);
    }
  }
  return snapshot.WorkloadByUid(name) != nullptr || snapshot.ServiceByKey(name) != nullptr;
}

std::vector<std::string> MissingAround(const state::MeshSnapshot& snapshot,
                                       const model::Workload& local) {
  Missing missing(snapshot);
  missing.Around(local);
  return missing.Take();
}

std::vector<std::string> MissingForInbound(const state::MeshSnapshot& snapshot,
                                           const model::Workload& local,
                                           const net::SocketAddress& tunnel,
                                           std::string_view authority,
                                           const net::IpAddress& sender) {
  Missing missing(snapshot);
  missing.Around(local);
  missing.Address(local.network, sender);
  if (const auto asked = net::SocketAddress::Parse(authority)) {
    if (asked->ip() != tunnel.ip()) missing.Address(local.network, asked->ip());
    return missing.Take();
  }
  const std::string host(authority.substr(0, authority.rfind(':')));
  if (host.empty() || snapshot.ServiceByHostname(host, local.ns) != nullptr) return missing.Take();
  // A Kubernetes name says its namespace; any other is looked for in the receiver's.
  missing.Service(local.ns + "/" + host);
  const size_t dot = host.find('.');
  const size_t end = dot == std::string::npos ? dot : host.find(".svc.", dot);
  if (end != std::string::npos && end > dot) {
    missing.Service(host.substr(dot + 1, end - dot - 1) + "/" + host);
  }
  return missing.Take();
}

}  // namespace qanat::route
