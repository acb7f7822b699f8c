// SPDX-License-Identifier: Apache-2.0
// The addresses of the local mode: the underlay, one pod block a node, one block of ClusterIPs. Pod
// addresses are given lowest first, so a freed one is the next to be used again: the mesh must
// stand that. ClusterIPs follow from the Service's name. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/net/address.h"

namespace qanat::local {

inline constexpr int kFabricHost = 254;
net::IpAddress UnderlayV4(int node_index);  // 10.90.0.i; the fabric is .254
net::IpAddress UnderlayV6(int node_index);  // fd90::i
net::IpAddress PodGatewayV4(int node_index);
net::IpAddress PodGatewayV6(int node_index);
net::Cidr PodBlockV4(int node_index);  // 10.91.i.0/24
net::Cidr PodBlockV6(int node_index);  // fd91:i::/64
net::IpAddress PodV4(int node_index, int host);
net::IpAddress PodV6(int node_index, int host);
net::Cidr ServiceBlockV4();  // 10.96.0.0/16
net::Cidr ServiceBlockV6();  // fd96::/112
net::IpAddress ServiceV4(uint16_t host);
net::IpAddress ServiceV6(uint16_t host);
net::IpAddress DnsV4();  // 10.96.0.10
net::IpAddress DnsV6();  // fd96::a

class PodAddresses {
 public:
  // The host number within the node's block (2..253). `wanted` is an address that the pod asks for,
  // "" for any.
  Result<int> Take(int node_index, const std::string& wanted);
  void Release(int node_index, int host);

 private:
  std::map<int, std::set<int>> taken_;
};

class ServiceAddresses {
 public:
  // The same number for the same name while it is taken; a wanted address of the block is honoured.
  Result<uint16_t> Take(const std::string& key, const std::string& wanted);
  void Release(const std::string& key);

 private:
  std::map<std::string, uint16_t> of_;
  std::set<uint16_t> taken_;
};

}  // namespace qanat::local
