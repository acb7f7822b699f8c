// SPDX-License-Identifier: Apache-2.0
#include "waypoint/config/config.h"

namespace qanat::waypoint {

ChainPtr ChainTable::Find(std::string_view authority) const {
  if (auto address = net::SocketAddress::Parse(authority)) {
    if (auto it = by_address.find(*address); it != by_address.end()) return it->second;
    if (auto it = by_ip.find(address->ip()); it != by_ip.end()) return it->second;
    return nullptr;
  }
  auto it = by_authority.find(AsciiLower(authority));
  return it == by_authority.end() ? nullptr : it->second;
}

ChainPtr ConfigSnapshot::FindChain(std::string_view authority) const {
  for (const auto& [name, listener] : listeners) {
    if (ChainPtr chain = listener->chains.Find(authority)) return chain;
  }
  return nullptr;
}

std::shared_ptr<const RouteTable> ConfigSnapshot::RoutesOf(const HttpChain& chain) const {
  if (chain.inline_routes) return chain.inline_routes;
  auto it = routes.find(chain.rds_name);
  return it == routes.end() ? nullptr : it->second;
}

std::shared_ptr<const ClusterConfig> ConfigSnapshot::FindCluster(const std::string& name) const {
  auto it = clusters.find(name);
  return it == clusters.end() || it->second->plumbing ? nullptr : it->second;
}

std::shared_ptr<const EndpointSet> ConfigSnapshot::EndpointsOf(const ClusterConfig& cluster) const {
  if (cluster.inline_endpoints) return cluster.inline_endpoints;
  auto it = endpoints.find(cluster.eds_name);
  return it == endpoints.end() ? nullptr : it->second;
}

}  // namespace qanat::waypoint
