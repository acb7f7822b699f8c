// SPDX-License-Identifier: Apache-2.0
// What this node itself knows of one of its pods: the node agent says who it is, its network
// namespace which addresses it has. Held against what the control plane says. A value.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "common/net/address.h"

namespace qanat::route {

struct PodFacts {
  std::string name, ns, service_account;
  std::vector<net::IpAddress> addresses;  // those that its namespace really has

  bool HasAddress(const net::IpAddress& ip) const {
    return std::find(addresses.begin(), addresses.end(), ip) != addresses.end();
  }
  bool operator==(const PodFacts&) const = default;
};

}  // namespace qanat::route
