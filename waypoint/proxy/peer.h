// SPDX-License-Identifier: Apache-2.0
// Who is at the client's end of one CONNECT: identity from the tunnel's certificate, names from the
// baggage. Shared, immutable; outlives the tunnel in requests that are being finished.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "common/net/address.h"

namespace qanat::waypoint {

struct Peer {
  std::string identity;  // spiffe://...
  net::SocketAddress address;
  net::SocketAddress local;
  // For metrics and logs only. Names in the baggage are believed only within the namespace that
  // the certificate proves.
  std::string workload, ns, canonical_name, canonical_revision, cluster;
  std::string principal() const;  // without spiffe://; "" when there is none
};
using PeerPtr = std::shared_ptr<const Peer>;

Peer MakePeer(std::string_view identity, net::SocketAddress address, net::SocketAddress local,
              std::string_view baggage);

// "host:port", "1.2.3.4:80" or "[v6]:port" with a port of 1 to 65535.
struct Authority {
  std::string text;
  net::SocketAddress address;  // set when the host is an IP address
  std::string host;
  uint16_t port = 0;
  bool valid = false;
};
Authority ParseAuthority(std::string_view text);

}  // namespace qanat::waypoint
