// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/ipam.h"

#include <fmt/format.h>

#include <array>

namespace qanat::local {
namespace {

constexpr uint16_t kDnsHost = 10;

net::IpAddress V4(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
  const std::array<uint8_t, 4> bytes{a, b, c, d};
  return net::IpAddress::FromBytes(bytes);
}

net::IpAddress V6(uint16_t first, uint16_t second, uint16_t last) {
  std::array<uint8_t, 16> bytes{};
  bytes[0] = static_cast<uint8_t>(first >> 8);
  bytes[1] = static_cast<uint8_t>(first);
  bytes[2] = static_cast<uint8_t>(second >> 8);
  bytes[3] = static_cast<uint8_t>(second);
  bytes[14] = static_cast<uint8_t>(last >> 8);
  bytes[15] = static_cast<uint8_t>(last);
  return net::IpAddress::FromBytes(bytes);
}

// Node 12 is fd91:12::/64 in the contract's notation: the digits of i are read as hexadecimal.
uint16_t DigitsAsHex(int i) {
  return static_cast<uint16_t>((i / 100 % 10) << 8 | (i / 10 % 10) << 4 | i % 10);
}

net::Cidr Block(const net::IpAddress& ip, unsigned length) {
  return net::Cidr::Make(ip, length).value_or(net::Cidr());
}

}  // namespace

net::IpAddress UnderlayV4(int i) { return V4(10, 90, 0, static_cast<uint8_t>(i)); }
net::IpAddress UnderlayV6(int i) { return V6(0xfd90, 0, DigitsAsHex(i)); }
net::IpAddress PodV4(int i, int host) {
  return V4(10, 91, static_cast<uint8_t>(i), static_cast<uint8_t>(host));
}
net::IpAddress PodV6(int i, int host) { return V6(0xfd91, DigitsAsHex(i), DigitsAsHex(host)); }
net::IpAddress PodGatewayV4(int i) { return PodV4(i, 1); }
net::IpAddress PodGatewayV6(int i) { return PodV6(i, 1); }
net::Cidr PodBlockV4(int i) { return Block(PodV4(i, 0), 24); }
net::Cidr PodBlockV6(int i) { return Block(PodV6(i, 0), 64); }
net::Cidr ServiceBlockV4() { return Block(V4(10, 96, 0, 0), 16); }
net::Cidr ServiceBlockV6() { return Block(V6(0xfd96, 0, 0), 112); }
net::IpAddress ServiceV4(uint16_t host) {
  return V4(10, 96, static_cast<uint8_t>(host >> 8), static_cast<uint8_t>(host));
}
net::IpAddress ServiceV6(uint16_t host) { return V6(0xfd96, 0, host); }
net::IpAddress DnsV4() { return ServiceV4(kDnsHost); }
net::IpAddress DnsV6() { return ServiceV6(kDnsHost); }

Result<int> PodAddresses::Take(int node_index, const std::string& wanted) {
  std::set<int>& taken = taken_[node_index];
  if (!wanted.empty()) {
    QANAT_ASSIGN_OR_RETURN(auto ip, net::IpAddress::Parse(wanted));
    if (!ip.is_v4() || !PodBlockV4(node_index).Contains(ip)) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("the pod asks for address {}, which is not in its node's block {}",
                              wanted, PodBlockV4(node_index).ToString()));
    }
    const int host = ip.bytes()[3];
    if (host < 2 || host > 253 || !taken.insert(host).second) {
      return Fail(Code::kAlreadyExists,
                  fmt::format("the pod asks for address {}, which is taken", wanted));
    }
    return host;
  }
  for (int host = 2; host <= 253; ++host) {
    if (taken.insert(host).second) return host;
  }
  return Fail(Code::kResourceExhausted, "the node's pod block has no free address");
}

void PodAddresses::Release(int node_index, int host) { taken_[node_index].erase(host); }

Result<uint16_t> ServiceAddresses::Take(const std::string& key, const std::string& wanted) {
  if (auto it = of_.find(key); it != of_.end()) return it->second;
  if (!wanted.empty()) {
    QANAT_ASSIGN_OR_RETURN(auto ip, net::IpAddress::Parse(wanted));
    const bool v4 = ip.is_v4() && ServiceBlockV4().Contains(ip);
    const bool v6 = ip.is_v6() && ServiceBlockV6().Contains(ip);
    if (!v4 && !v6) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("Service {}: clusterIP {} is not in {} or {}", key, wanted,
                              ServiceBlockV4().ToString(), ServiceBlockV6().ToString()));
    }
    const auto bytes = ip.bytes();
    const auto host = static_cast<uint16_t>(bytes[bytes.size() - 2] << 8 | bytes[bytes.size() - 1]);
    if (!taken_.insert(host).second) {
      return Fail(Code::kAlreadyExists,
                  fmt::format("Service {}: clusterIP {} is taken", key, wanted));
    }
    of_[key] = host;
    return host;
  }
  uint32_t hash = 2166136261U;  // FNV-1a, so that a Service keeps its address over restarts
  for (unsigned char c : key) hash = (hash ^ c) * 16777619U;
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto host = static_cast<uint16_t>((hash + i) & 0xffff);
    if (host < 256 || host == 0xffff) continue;  // the low ones are for fixed addresses
    if (!taken_.insert(host).second) continue;
    of_[key] = host;
    return host;
  }
  return Fail(Code::kResourceExhausted, "no ClusterIP is free");
}

void ServiceAddresses::Release(const std::string& key) {
  auto it = of_.find(key);
  if (it == of_.end()) return;
  taken_.erase(it->second);
  of_.erase(it);
}

}  // namespace qanat::local
