// SPDX-License-Identifier: Apache-2.0
// The PROXY protocol header, version 2, that an application tunnel begins with: who called, what
// was asked for, and what mTLS proved of the caller. Pure. Format: haproxy's proxy-protocol.txt;
// the types 0xD0 and 0xD1 are those of workload.proto's ApplicationTunnel.
#pragma once

#include <string>

#include "common/net/address.h"

namespace qanat::ztunnel {

struct ProxyHeader {
  net::SocketAddress source;
  net::SocketAddress destination;
  std::string identity;  // TLV 0xD0: the caller's SPIFFE id; "" leaves it out
  std::string hostname;  // TLV 0xD1: the host name that was asked for; "" when it was an address
};

// Ends of two families are both written as IPv6, the IPv4 one mapped. A value too long for an
// honest one (4 KiB) is left out.
std::string EncodeProxyV2(const ProxyHeader& header);

}  // namespace qanat::ztunnel
