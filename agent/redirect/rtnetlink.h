// SPDX-License-Identifier: Apache-2.0
// The little of rtnetlink that capture needs. Every call acts on the network namespace of the
// calling thread: use inside netns::NetNs::Run().
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/net/address.h"

namespace qanat::agent::rtnl {

constexpr uint32_t kLoopbackIndex = 1;  // in every namespace

struct InterfaceAddress {
  uint32_t ifindex = 0;
  net::IpAddress ip;
};
Result<std::vector<InterfaceAddress>> Addresses();

struct Interface {
  uint32_t ifindex = 0;
  std::string name;
  std::string kind;  // "veth", "tun", ...; empty for what is no virtual device
  bool loopback = false;
  bool up = false;
  uint32_t link = 0;    // of a veth: the index of its other end
  int link_netns = -1;  // ... which is in the namespace of this id; -1: in this one
  bool operator==(const Interface&) const = default;
};
Result<std::vector<Interface>> Interfaces();
Result<Interface> InterfaceAt(uint32_t ifindex);  // kNotFound: there is none
// The id by which this namespace knows that one; -1: by none.
Result<int> IdOfNamespace(int netns_fd);

enum class RuleAction { kTable, kBlackholeTcp };
struct Rule {
  int family = 0;  // AF_INET or AF_INET6
  uint32_t priority = 0;
  uint32_t mark = 0;   // kTable only
  uint32_t table = 0;  // kTable only
  RuleAction action = RuleAction::kTable;
  uint32_t mask = 0xffffffff;  // of the mark
};
Status AddRule(const Rule& rule);        // it being there already is fine
Status DeleteRule(const Rule& rule);     // it not being there is fine
Result<bool> HasRule(const Rule& rule);  // priority 0: whatever its priority

// Where a packet with this mark to `destination` would go: its source when it goes over lo as local
// traffic, none when anywhere else or nowhere.
Result<net::IpAddress> LocalSourceOf(const net::IpAddress& destination, uint32_t mark);

// `local default dev lo src SOURCE table TABLE`
Status SetLocalDefault(const net::IpAddress& source, uint32_t table);
Status DeleteLocalDefault(int family, uint32_t table);

// Filters below a device's clsact; none where it has no clsact.
enum class Direction { kIngress, kEgress };
struct Filter {
  uint32_t priority = 0;
  uint32_t handle = 0;
  uint32_t program_id = 0;  // 0: it is no BPF program
};
Result<std::vector<Filter>> Filters(uint32_t ifindex, Direction direction);
// `local PREFIX/LENGTH dev lo src SOURCE` in the table of local addresses, under a routing protocol
// of our own, so that ours are found again. IPv6 only.
Status AddLocalPrefix(const net::IpAddress& prefix, uint8_t length, const net::IpAddress& source);
Status DeleteLocalPrefix(const net::IpAddress& prefix, uint8_t length);
Result<std::vector<net::IpAddress>> LocalPrefixes(uint8_t length);

}  // namespace qanat::agent::rtnl
