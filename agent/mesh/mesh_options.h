// SPDX-License-Identifier: Apache-2.0
// Where the agent hears of the mesh, and as whom: the proxy's variables with the proxy's meanings.
// Read once, at the start.
#pragma once

#include <string>
#include <vector>

#include "common/base/environment.h"
#include "common/base/result.h"
#include "common/grpc/control_plane.h"
#include "common/xds/node.h"

namespace qanat::agent {

struct MeshOptions {
  // xds_address "": the agent does without, as when the variable is not set.
  grpc::ControlPlane control_plane;
  xds::NodeProxy node;
  std::vector<std::string> environment;  // NAME=value, for the node's metadata

  bool enabled() const { return !control_plane.xds_address.empty(); }
};

// XDS_ADDRESS, also as tcp://IP:PORT, which is how Kubernetes tells a Service's address in a
// variable: names of the cluster are not to be had on the node's network. Then XDS_ROOT_CA,
// ALT_XDS_HOSTNAME, AUTH_TOKEN, CLUSTER_ID, XDS_HEADER_*, NODE_NAME, POD_NAME, POD_NAMESPACE,
// INSTANCE_IP, NETWORK, ISTIO_META_*. `entries`: all of the environment.
Result<MeshOptions> ReadMeshOptions(const GetEnvironment& get, std::vector<std::string> entries);

}  // namespace qanat::agent
