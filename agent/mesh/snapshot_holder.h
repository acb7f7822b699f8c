// SPDX-License-Identifier: Apache-2.0
// The mesh as the agent knows it now, and who wants to hear when that changes. Filled by
// MeshClient, owned by the App; main loop. Snapshots are immutable and may be kept by anybody.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "common/state/snapshot.h"

namespace qanat::agent {

class SnapshotHolder {
 public:
  using Listener = std::function<void(const state::SnapshotPtr&)>;

  // nullptr until the control plane has told everything once: half of a mesh decides nothing, for
  // the policy that forbids something may be in the other half.
  const state::SnapshotPtr& snapshot() const { return snapshot_; }

  // Called with each snapshot from now on, in the order of listening.
  void Listen(Listener listener) { listeners_.push_back(std::move(listener)); }

  void Set(state::SnapshotPtr snapshot) {
    if (snapshot == snapshot_) return;
    snapshot_ = std::move(snapshot);
    for (const Listener& listener : listeners_) listener(snapshot_);
  }

 private:
  state::SnapshotPtr snapshot_;
  std::vector<Listener> listeners_;
};

}  // namespace qanat::agent
