// SPDX-License-Identifier: Apache-2.0
// What the proxy itself is told once, at start.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

#include "common/net/address.h"

namespace qanat::waypoint {

struct ProxySettings {
  // Port 0: the kernel picks (tests); every worker shares the port.
  net::SocketAddress listen{*net::IpAddress::Parse("::"), 15008};
  int workers = 2;
  std::string identity;  // own SPIFFE id, for pools and metrics
  std::string workload_name, workload_namespace, cluster_id;  // baggage of tunnels that we open
  bool access_log_json = false;
  bool access_log = true;  // off: no chain logs
  // Tunnels in one process and streams in one tunnel: over it new ones are refused.
  size_t max_tunnels = 20000;
  size_t replay_limit = 1 << 20;     // request body kept for retries, as Envoy's default
  size_t connect_buffer = 64 << 10;  // request body held while the upstream is being dialled
  std::chrono::milliseconds sniff_timeout{5000};
  std::chrono::milliseconds drain_timeout{5000};
};

}  // namespace qanat::waypoint
