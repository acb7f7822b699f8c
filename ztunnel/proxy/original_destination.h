// SPDX-License-Identifier: Apache-2.0
// Where the client of a captured connection wanted to go.
#pragma once

#include <cstdint>
#include <optional>

#include "common/net/address.h"

namespace qanat::ztunnel {

struct OriginalDestination {
  net::SocketAddress address;
  // True under a node agent that rewrites addresses (iptables REDIRECT, so conntrack knows); false
  // when the socket itself has the original address, as under our own agent.
  bool by_nat = false;
  // The endpoint of the service that the kernel has drawn for this connection (lb/draw.h); 0: none.
  uint32_t drawn = 0;
};

// Nothing when the connection was made to the listener itself (`listener_port`), which no captured
// connection is.
std::optional<OriginalDestination> FindOriginalDestination(int fd, uint16_t listener_port);

}  // namespace qanat::ztunnel
