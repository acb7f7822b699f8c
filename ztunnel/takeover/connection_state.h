// SPDX-License-Identifier: Apache-2.0
// A live connection between two sockets as bytes for another process: whose it is, what is reported
// of it, what it is judged by, and what waits to be written. Things of the mesh go by their names.
// Pure.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "common/state/snapshot.h"
#include "common/takeover/session.h"
#include "ztunnel/proxy/relay.h"
#include "ztunnel/telemetry/flow.h"
#include "ztunnel/telemetry/headers.h"

namespace qanat::ztunnel {

struct SavedFlow {
  net::SocketAddress source, tunnel, destination, target;
  std::string source_workload, destination_workload, service;  // uids, "ns/hostname"; "" = none
  // In place of a uid, of a workload that nobody announces here, because a gateway's far end or a
  // certificate told of it: what labels and the log call it by. No identity and no address, so
  // nothing is judged by it.
  std::optional<Baggage> source_described, destination_described;
  std::string source_identity, destination_identity;  // "" = none
  bool mutual_tls = false;
  uint64_t tries = 1;
};
SavedFlow SaveFlow(const Flow& flow);
// Who is no longer in the mesh is reported as unknown from here on.
void RestoreFlow(const SavedFlow& saved, const state::MeshSnapshot& snapshot, Flow& flow);

struct SavedConnection {
  // Of a connection that a pod made; else it is one to a pod, in plain text.
  struct Outbound {
    net::SocketAddress original;
    bool by_nat = false;
    uint64_t kind = 0;  // route::Route::Kind
    bool via_waypoint = false;
    bool one_pass = false;
    std::string destination_pod, destination;  // one pass: uids of the pod and of its workload
    net::SocketAddress target;                 // one pass
  };
  std::string pod_uid;
  uint64_t netns_cookie = 0;
  std::chrono::milliseconds age{0};
  SavedFlow flow;
  std::optional<Outbound> outbound;
};

takeover::Parcel EncodeConnection(const SavedConnection& saved, const RelayState::Way& up,
                                  const RelayState::Way& down, Fd downstream, Fd upstream);

struct ImportedConnection {
  SavedConnection saved;
  RelayState relay;
};
Result<ImportedConnection> DecodeConnection(takeover::Parcel parcel);

}  // namespace qanat::ztunnel
