// SPDX-License-Identifier: Apache-2.0
// What a node proxy hears of the mesh, heard by the agent itself: workloads, services and policies
// from the control plane over delta xDS, as a node of the proxy's type with the agent's own token.
// What is heard goes to a SnapshotHolder. Nothing of the agent waits for it, and what is known
// stays when the control plane goes; how old it may be is age()'s question. Main loop.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "agent/mesh/mesh_options.h"
#include "agent/mesh/snapshot_holder.h"
#include "common/event/event_loop.h"
#include "common/metrics/registry.h"

namespace qanat::agent {

class MeshClient {
 public:
  // `holder` outlives it. `ping`: how often the control plane is asked whether it is there.
  MeshClient(event::EventLoop& loop, MeshOptions options, SnapshotHolder& holder,
             metrics::Registry& registry,
             std::chrono::milliseconds ping = std::chrono::milliseconds(1000));
  ~MeshClient();
  // Before Start(). While it says no, nothing that the control plane sends is acknowledged: it is
  // not in force yet. Acknowledge() when that may have changed.
  void SetMayAcknowledge(std::function<bool()> may);
  void Start();
  void Acknowledge();

  // How long ago the control plane was there for certain (the sending of the latest PING that it
  // answered; where it allows fewer PINGs, what its kernel acknowledged:
  // grpc::Channel::last_heard()), on a stream that has told everything. Nothing: it is not there,
  // or has not told all since it came back; then what is known may be out of date. The time that a
  // machine sleeps is not in it.
  std::optional<event::Duration> age() const;

  struct State {
    std::string address;
    bool connected = false;  // a stream has answered
    bool current = false;    // ... and told all of both types
    std::optional<event::Duration> age;
    std::chrono::milliseconds ping{0};   // between two PINGs: more where it allows fewer
    size_t addresses = 0, policies = 0;  // resources held
    std::string last_error;              // why the last stream ended
  };
  State state() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::agent
