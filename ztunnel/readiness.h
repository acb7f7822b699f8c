// SPDX-License-Identifier: Apache-2.0
// Whether the proxy is ready, and what /healthz/ready says of it. Pure; App tells what is so.
#pragma once

#include <string>

#include "ztunnel/zds/client.h"

namespace qanat::ztunnel {

struct Standing {
  bool draining = false;
  std::string mesh;  // what the mesh state lacks: "xds", "xds (saved state of ...)"; "" nothing
  zds::Agent agent = zds::Agent::kAwaited;
  bool pod_awaited = false;  // the one workload, of a proxy that has no agent
  bool pods_pending = false;
  bool taking_over = false;  // connections of the process before are still on their way
};

struct Readiness {
  std::string pending;      // what it waits for, with commas; "" when it is ready
  bool agent_away = false;  // ready all the same
  bool ready() const { return pending.empty(); }
  // The answer's body. Its first line is the stock proxy's.
  std::string Text() const;
};

// An agent that is away takes nothing from the pods that are served, and who is not ready is ended
// by Kubernetes as soon as a successor exists, even one that cannot start. So only the first
// agent's list of pods is waited for.
Readiness Judge(const Standing& standing);

}  // namespace qanat::ztunnel
