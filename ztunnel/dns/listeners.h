// SPDX-License-Identifier: Apache-2.0
// The sockets of a pod's DNS proxy: UDP and TCP inside its namespace, out of the wire's reach.
// IPv4: every address, but on the loopback device only, since a node agent may redirect questions
// to any loopback address. IPv6 has one loopback address, and our agent makes a prefix local for
// others: UDP takes every address, and Server leaves out what did not come over the loopback device
// (the kernel routes no answer to a global address of the pod through a socket that is bound to
// that device). TCP is asked at the loopback address only. Main thread.
#pragma once

#include <string>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/net/address.h"
#include "common/netns/netns.h"
#include "ztunnel/config.h"

namespace qanat::ztunnel::dns {

struct Sockets {
  std::vector<Fd> udp, tcp;  // one of each per family
};

// ISTIO_META_DNS_PROXY_ADDR: "localhost:15053", or an address, which is then taken as it is.
struct BindAddress {
  net::SocketAddress address;
  bool any_by_udp = false;  // UDP: every address of the family
  std::string device;       // "" for any
  bool optional = false;    // left out where the namespace has no such address
};
Result<std::vector<BindAddress>> ParseBindAddress(const std::string& text, bool ipv6);

Result<Sockets> OpenSockets(const netns::NetNs* netns, const Config& config);

}  // namespace qanat::ztunnel::dns
