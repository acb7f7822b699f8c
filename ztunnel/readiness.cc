// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/readiness.h"

#include <string_view>

namespace qanat::ztunnel {

Readiness Judge(const Standing& standing) {
  Readiness out;
  const auto waits = [&out](std::string_view what) {
    out.pending.append(out.pending.empty() ? "" : ", ").append(what);
  };
  if (standing.draining) waits("draining");
  if (!standing.mesh.empty()) waits(standing.mesh);
  if (standing.agent == zds::Agent::kAwaited) waits("zds");
  if (standing.pod_awaited) waits("the pod");
  if (standing.pods_pending) waits("pending pods");
  // Whoever waits for us ends the process before us, and with it what is not here yet.
  if (standing.taking_over) waits("connections of the process before");
  out.agent_away = standing.agent == zds::Agent::kAway;
  return out;
}

std::string Readiness::Text() const {
  std::string out = ready() ? "ready\n" : "not ready, pending: " + pending + "\n";
  if (agent_away) {
    out += "the node agent is away (zds): pods that are served go on, others wait for it\n";
  }
  return out;
}

}  // namespace qanat::ztunnel
