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

struct InterfaceAddress {
  uint32_t ifindex = 0;
  net::IpAddress ip;
};
Result<std::vector<InterfaceAddress>> Addresses();

struct Interface {
  uint32_t ifindex = 0;
  std::string name;
  bool loopback = false;
  bool up = false;
};
Result<std::vector<Interface>> Interfaces();

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

// `local default dev lo src SOURCE table TABLE`
Status SetLocalDefault(const net::IpAddress& source, uint32_t table);
Status DeleteLocalDefault(int family, uint32_t table);
// The preferred source of that route, none when there is no such route.
Result<net::IpAddress> LocalDefaultSource(int family, uint32_t table);

// `local PREFIX/LENGTH dev lo src SOURCE` in the table of local addresses, under a routing protocol
// of our own, so that ours are found again. IPv6 only.
Status AddLocalPrefix(const net::IpAddress& prefix, uint8_t length, const net::IpAddress& source);
Status DeleteLocalPrefix(const net::IpAddress& prefix, uint8_t length);
Result<std::vector<net::IpAddress>> LocalPrefixes(uint8_t length);

}  // namespace qanat::agent::rtnl
