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
  net::SocketAddress target;  // pod address and target port: what policy sees and we connect to
  model::ServicePtr service;  // which service was meant, for metrics
};

// `tunnel` is the address that the peer dialled: the pod's, port 15008. `forwarded` is the header's
// value; its host= only names the service that was meant.
InboundTarget DecideInbound(const state::MeshSnapshot& snapshot, const model::Workload& local,
                            const net::SocketAddress& tunnel, std::string_view authority,
                            std::string_view forwarded);

}  // namespace qanat::ztunnel
