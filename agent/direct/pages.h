// SPDX-License-Identifier: Apache-2.0
// What the direct path tells about itself: /direct, /direct/verdict and its metrics. Main loop.
#pragma once

#include <string>

#include "agent/direct/service.h"
#include "common/admin/server.h"
#include "common/metrics/registry.h"

namespace qanat::agent::direct {

std::string Page(const Service* service);  // JSON

// /direct/verdict?from=NAMESPACE/NAME&to=IP:PORT is what holds for such a connection now. `service`
// (nullptr: the agent does without) lives as long as the server.
void AddRoutes(admin::Server& server, const Service* service);
void AddMetrics(metrics::Registry& registry, const Service& service);

}  // namespace qanat::agent::direct
