// SPDX-License-Identifier: Apache-2.0
// A mesh in a cluster as the commands see it: pods, services and nodes from the API server, admin
// ports through port-forward, since they listen on loopback only. One thread, blocking.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "tools/qanatctl/mesh_view.h"
#include "tools/qanatctl/options.h"

namespace qanat::ctl {

// Lists as the API server gives them (their items).
struct ClusterObjects {
  std::vector<Json> pods, services, endpoint_slices;
};

// Pure: what of these objects is the mesh. `reach` carries the requests; the places are
// "node:NAME" (its proxy, or its agent on the agent's port), "pod:NS/NAME" and
// "controlplane:NS/NAME".
Result<MeshView> ViewOfCluster(const std::string& name, const ClusterObjects& objects,
                               MeshView::Reach reach);

// Reads the objects; the error says what is missing, the mesh itself included.
Result<MeshView> LoadCluster(const Options& options);

// The local mesh when one runs (or was named), else the cluster of the kubeconfig. --kubeconfig and
// --context always mean the cluster.
Result<MeshView> OpenMesh(const Options& options);

}  // namespace qanat::ctl
