// SPDX-License-Identifier: Apache-2.0
// What the agent has heard of the mesh, for operators: /mesh and its metrics. Main loop.
#pragma once

#include <string>

#include "agent/mesh/mesh_client.h"
#include "agent/mesh/snapshot_holder.h"
#include "common/admin/server.h"
#include "common/metrics/registry.h"

namespace qanat::agent {

std::string MeshPage(const MeshClient* client, const SnapshotHolder& holder);  // JSON
// `client` (nullptr: the agent does without) and `holder` live as long as the server.
void AddMeshRoutes(admin::Server& server, const MeshClient* client, const SnapshotHolder& holder);
void AddMeshMetrics(metrics::Registry& registry, const MeshClient& client);

}  // namespace qanat::agent
