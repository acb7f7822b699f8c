// SPDX-License-Identifier: Apache-2.0
// Where an outgoing connection goes: one pure function from (mesh, source, destination) to a route,
// so that every case has a line in a table test and `why` says what a real connection gets.
#pragma once

#include <string>
#include <vector>

#include "common/lb/lb.h"
#include "common/model/reason.h"
#include "common/state/snapshot.h"
#include "ztunnel/pod.h"

namespace qanat::ztunnel {

// Ports that belong to the proxy in every pod; never an application's (stock: illegal_ports).
bool IsProxyPort(uint16_t port);

struct Route {
  enum class Kind : uint8_t {
    kRefuse,       // `reason` and `detail` say why
    kPassthrough,  // not ours: plain TCP to the original destination
    kTcp,          // a known workload that does not speak HBONE: plain TCP to `to`
    kHbone,        // CONNECT `authority` through a tunnel to `to`
  };
  Kind kind = Kind::kRefuse;
  model::Reason reason = model::Reason::kNone;
  std::string detail;

  net::SocketAddress to;      // what to dial; for kHbone the peer's tunnel port
  net::SocketAddress target;  // the application's address at the far end, once known
  std::string authority;
  std::vector<std::string> identities;  // any of these the peer's certificate must carry
  model::WorkloadPtr destination;       // the workload dialled: endpoint or waypoint
  model::ServicePtr service;            // the service that was asked for
  bool via_waypoint = false;
};
std::string_view ToString(Route::Kind kind);

Route DecideOutbound(const state::MeshSnapshot& snapshot, const model::Workload& source,
                     const net::SocketAddress& destination, const lb::Random& random);

// A direct route whose far end is a pod of this node can be taken in one pass, without TLS, if both
// ends are known by their namespace. Returns the destination's pod, or nullptr and why not.
struct OnePass {
  PodPtr pod;
  std::string why_not;
};
OnePass DecideOnePass(const Route& route, const PodPtr& destination_pod);

}  // namespace qanat::ztunnel
