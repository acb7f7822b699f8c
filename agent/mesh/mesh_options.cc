// SPDX-License-Identifier: Apache-2.0
#include "agent/mesh/mesh_options.h"

#include <utility>

namespace qanat::agent {

Result<MeshOptions> ReadMeshOptions(const GetEnvironment& get, std::vector<std::string> entries) {
  MeshOptions out;
  EnvironmentReader reader(get);
  out.control_plane.xds_address.clear();
  out.control_plane.Read(reader);
  std::string& address = out.control_plane.xds_address;
  if (address.find("$(") != std::string::npos) {
    reader.Bad("XDS_ADDRESS",
               "an address: the Service that its variable is of did not exist when the kubelet "
               "started this container");
  }
  if (constexpr std::string_view kTcp = "tcp://"; address.starts_with(kTcp)) {
    address.replace(0, kTcp.size(), "https://");
  }
  QANAT_RETURN_IF_ERROR(out.control_plane.ReadHeaders(entries));
  reader.Text("NODE_NAME", out.node.node_name);
  reader.Text("POD_NAME", out.node.pod_name);
  reader.Text("POD_NAMESPACE", out.node.pod_namespace);
  reader.Text("INSTANCE_IP", out.node.instance_ip);
  reader.Text("NETWORK", out.node.network);
  out.node.cluster_id = out.control_plane.cluster_id;
  QANAT_RETURN_IF_ERROR(reader.status());
  out.environment = std::move(entries);
  return out;
}

}  // namespace qanat::agent
