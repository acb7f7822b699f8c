// SPDX-License-Identifier: Apache-2.0
// What an incoming CONNECT may reach: a pure function from (mesh, receiving workload, tunnel
// destination, authority) to the application's address, or a refusal with its HTTP status.
#pragma once

#include <string>
#include <string_view>

#include "common/model/reason.h"
#include "common/state/snapshot.h"

namespace qanat::ztunnel {

struct InboundTarget {
  model::Reason reason = model::Reason::kNone;
  int status = 200;  // 400 or 503 when refused here (stock ztunnel's numbers)
  std::string detail;
  net::SocketAddress target;   // pod address and target port: what policy sees
  net::SocketAddress connect;  // where the application listens: `target`, or its tunnel's port
  model::ServicePtr service;   // which service was meant, for metrics
  // The application wants a PROXY header (application tunnel) that names these as the destination.
  bool proxy_protocol = false;
  net::SocketAddress proxy_destination;
  std::string proxy_hostname;  // when a host name was asked for
};

struct InboundOptions {
  bool localhost_app_tunnel = true;  // LOCALHOST_APP_TUNNEL: application tunnels end at loopback
  bool socks = false;                // the proxy takes SOCKS there
};

// `tunnel` is the address that the peer dialled: the pod's, port 15008. `forwarded` is the header's
// value; its host= only names the service that was meant.
InboundTarget DecideInbound(const state::MeshSnapshot& snapshot, const model::Workload& local,
                            const net::SocketAddress& tunnel, std::string_view authority,
                            std::string_view forwarded, const InboundOptions& options = {});

}  // namespace qanat::ztunnel
