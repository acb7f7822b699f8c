// SPDX-License-Identifier: Apache-2.0
// What the agent tells about itself: /healthz/ready, /pods, /capture, /connections, /metrics; and
// what may be asked of it: POST /connections/end.
#pragma once

#include <string>
#include <vector>

#include "agent/cluster/cluster.h"
#include "agent/enrol/enroller.h"
#include "agent/hold/listener_hold.h"
#include "agent/pods/source.h"
#include "agent/redirect/hooks.h"
#include "agent/zds/server.h"
#include "bpf/user/features.h"
#include "common/admin/server.h"
#include "common/metrics/registry.h"

namespace qanat::agent {

// Not owned; all live as long as the server that shows them.
struct Shown {
  Hooks* hooks;
  Enroller* enroller;
  zds::Server* zds;
  PodSource* source;
  Cluster* cluster;          // nullptr outside Kubernetes
  const ListenerHold* hold;  // nullptr where nothing is kept
};

void AddAdminRoutes(admin::Server& server, std::string node_name,
                    std::vector<bpf::Feature> features, Shown shown);
void AddMetrics(metrics::Registry& registry, Shown shown);

}  // namespace qanat::agent
