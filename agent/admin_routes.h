// SPDX-License-Identifier: Apache-2.0
// What the agent tells about itself: /healthz/ready, /pods, /capture, /metrics. Read only.
#pragma once

#include <string>
#include <vector>

#include "agent/enrol/enroller.h"
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
};

void AddAdminRoutes(admin::Server& server, std::string node_name,
                    std::vector<bpf::Feature> features, Shown shown);
void AddMetrics(metrics::Registry& registry, Shown shown);

}  // namespace qanat::agent
