// SPDX-License-Identifier: Apache-2.0
// Who we are towards an xDS server: the Node message.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace qanat::xds {

struct Node {
  std::string id;  // "ztunnel~10.0.0.1~pod.ns~ns.svc.cluster.local"
  std::string cluster;
  std::string build_version;
  // google.protobuf.Struct: plain strings, and values given as JSON text (ISTIO_METAJSON_*).
  std::map<std::string, std::string> metadata;
  std::map<std::string, std::string> metadata_json;
};

// `type` is ztunnel, waypoint, router; the id's grammar is istiod's:
// <type>~<ip>~<pod>.<ns>~<ns>.svc.<domain>
std::string NodeId(std::string_view type, std::string_view ip, std::string_view pod,
                   std::string_view ns, std::string_view domain = "cluster.local");

// What a node proxy says of itself (stock ztunnel's metadata), and what else hears what it hears.
struct NodeProxy {
  std::string pod_name, pod_namespace, node_name, cluster_id, network;
  std::string instance_ip = "1.1.1.1";
};
Node ToNode(const NodeProxy& proxy);

// Metadata as stock proxies build it from the environment ("NAME=value" strings): ISTIO_META_X=v
// becomes metadata X, ISTIO_METAJSON_X=json becomes metadata_json X.
void AddEnvironmentMetadata(const std::vector<std::string>& environment, Node& node);

}  // namespace qanat::xds
