// SPDX-License-Identifier: Apache-2.0
// Where an outgoing connection goes: one pure function from (mesh, source, destination) to a route,
// so that every case has a line in a table test and `why` says what a real connection gets.
#pragma once

#include <string>
#include <vector>

#include "common/lb/lb.h"
#include "common/lb/pick_cache.h"
#include "common/model/reason.h"
#include "common/route/pod_facts.h"
#include "common/state/snapshot.h"

namespace qanat::route {

// Ports that belong to the proxy in every pod; never an application's (stock: illegal_ports). With
// `socks` (UNSTABLE_ENABLE_SOCKS5) there is one more.
bool IsProxyPort(uint16_t port, bool socks = false);

struct Route {
  enum class Kind : uint8_t {
    kRefuse,       // `reason` and `detail` say why
    kPassthrough,  // not ours: plain TCP to the original destination
    kTcp,          // a known workload that does not speak HBONE: plain TCP to `to`
    kHbone,        // CONNECT `authority` through a tunnel to `to`
    kDoubleHbone,  // ... which is another network's gateway: a second tunnel inside the first
  };
  Kind kind = Kind::kRefuse;
  model::Reason reason = model::Reason::kNone;
  std::string detail;

  net::SocketAddress to;      // what to dial; for kHbone the peer's tunnel port
  net::SocketAddress target;  // the application's address at the far end, once known
  // What is to be dialled is known by this name only (ServiceEntry with resolution DNS): `to` has
  // no address before Resolved() has given it one, and, where that is the application itself and
  // not a waypoint or a gateway, neither has `target` (which gets `picked_port`).
  std::string host;
  std::string authority;
  std::vector<std::string> identities;        // any of these the peer's certificate must carry
  std::vector<std::string> inner_identities;  // kDoubleHbone: ... and any of these the far end's
  model::WorkloadPtr destination;             // the workload dialled: endpoint or waypoint
  model::ServicePtr service;                  // the service that was asked for
  bool via_waypoint = false;
  bool source_encrypts = false;  // model::Workload::encrypt of who asks
  // The destination's port where it was picked among several; 0: there was no choice.
  uint16_t picked_port = 0;

  void Resolved(const net::IpAddress& ip, uint16_t port);
};
std::string_view ToString(Route::Kind kind);

// What failed comes in, so that another try is the same decision.
struct OutboundOptions {
  lb::Avoid avoid;
  lb::PickCache* picks = nullptr;  // none: every pick looks at all endpoints
  // An endpoint of a service without a waypoint that has one of its own is reached through that:
  // where destinations enforce their waypoints (required_waypoint.h) it would refuse the direct
  // way. Stock proxies go direct.
  bool waypoints_of_endpoints = false;
  bool socks = false;  // the proxy takes SOCKS at loopback
  // The endpoint that was drawn already, by the kernel (lb/draw.h); 0: none. It is taken as long as
  // a pick could fall on it, and nobody has tried it.
  uint32_t drawn = 0;
  // On demand: what the decision looked for and neither found nor knows to be absent is added; then
  // the route is what it would be if nobody had these names.
  std::vector<std::string>* missing = nullptr;
};

Route DecideOutbound(const state::MeshSnapshot& snapshot, const model::Workload& source,
                     const net::SocketAddress& destination, const lb::Random& random,
                     const OutboundOptions& options = {});

// A direct route whose far end is a pod of this node can be taken in one pass, without TLS, if both
// ends are known by their namespace. `destination_pod`: what this node knows of it; nullptr: it is
// not one of its pods.
struct OnePass {
  bool possible = false;
  std::string why_not;  // otherwise
};
OnePass DecideOnePass(const Route& route, const PodFacts* destination_pod);

}  // namespace qanat::route
