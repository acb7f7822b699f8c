// SPDX-License-Identifier: Apache-2.0
// One enrolled pod: what the node agent says of it, and what its network namespace shows. Made on
// the main thread, immutable, shared with the workers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/net/address.h"
#include "common/netns/netns.h"

namespace qanat::ztunnel {

struct Pod {
  std::string uid;  // Kubernetes pod UID
  std::string name, ns, service_account;
  std::shared_ptr<const netns::NetNs> netns;
  uint64_t netns_cookie = 0;
  std::vector<net::IpAddress> addresses;  // global ones, by rtnetlink, inside the namespace

  bool HasAddress(const net::IpAddress& ip) const {
    return std::find(addresses.begin(), addresses.end(), ip) != addresses.end();
  }
};
using PodPtr = std::shared_ptr<const Pod>;

}  // namespace qanat::ztunnel
