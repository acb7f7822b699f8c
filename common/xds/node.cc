// SPDX-License-Identifier: Apache-2.0
#include "common/xds/node.h"

namespace qanat::xds {

std::string NodeId(std::string_view type, std::string_view ip, std::string_view pod,
                   std::string_view ns, std::string_view domain) {
  std::string id;
  id.append(type).append("~").append(ip).append("~").append(pod).append(".").append(ns);
  id.append("~").append(ns).append(".svc.").append(domain);
  return id;
}

Node ToNode(const NodeProxy& proxy) {
  Node node;
  node.id = NodeId("ztunnel", proxy.instance_ip, proxy.pod_name, proxy.pod_namespace);
  node.metadata = {{"NAME", proxy.pod_name},
                   {"NAMESPACE", proxy.pod_namespace},
                   {"INSTANCE_IPS", proxy.instance_ip},
                   {"NODE_NAME", proxy.node_name},
                   {"CLUSTER_ID", proxy.cluster_id},
                   {"NETWORK", proxy.network}};
  node.build_version = QANAT_VERSION;
  return node;
}

void AddEnvironmentMetadata(const std::vector<std::string>& environment, Node& node) {
  constexpr std::string_view kPlain = "ISTIO_META_";
  constexpr std::string_view kJson = "ISTIO_METAJSON_";
  for (const std::string& entry : environment) {
    const size_t eq = entry.find('=');
    if (eq == std::string::npos) continue;
    const std::string_view name = std::string_view(entry).substr(0, eq);
    const std::string value = entry.substr(eq + 1);
    if (name.starts_with(kPlain) && name.size() > kPlain.size()) {
      node.metadata[std::string(name.substr(kPlain.size()))] = value;
    } else if (name.starts_with(kJson) && name.size() > kJson.size()) {
      node.metadata_json[std::string(name.substr(kJson.size()))] = value;
    }
  }
}

}  // namespace qanat::xds
