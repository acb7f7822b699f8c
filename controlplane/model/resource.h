// SPDX-License-Identifier: Apache-2.0
// One xDS resource, encoded once and shared by all clients: what translators give and ADS sends.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace google::protobuf {
class MessageLite;
}

namespace qanat::controlplane {

inline constexpr std::string_view kAddressType = "type.googleapis.com/istio.workload.Address";
inline constexpr std::string_view kAuthorizationType =
    "type.googleapis.com/istio.security.Authorization";
inline constexpr std::string_view kListenerType =
    "type.googleapis.com/envoy.config.listener.v3.Listener";
inline constexpr std::string_view kRouteType =
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
inline constexpr std::string_view kClusterType =
    "type.googleapis.com/envoy.config.cluster.v3.Cluster";
inline constexpr std::string_view kEndpointType =
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
inline constexpr std::string_view kSecretType =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

struct Resource {
  std::string name;
  std::string version;  // hash of type, name, aliases and content
  std::vector<std::string> aliases;
  // A whole envoy.service.discovery.v3.Resource message: version=1, resource=2 (Any), name=3,
  // aliases=4. A response is the concatenation of these.
  std::shared_ptr<const std::string> wire;
};

// Encodes deterministically (maps in key order), so that equal content has an equal version.
Resource MakeResource(std::string_view type_url, std::string name, std::vector<std::string> aliases,
                      const google::protobuf::MessageLite& body);
Resource MakeResource(std::string_view type_url, std::string name, std::vector<std::string> aliases,
                      std::string_view serialised_body);

using ResourcesByName = std::map<std::string, Resource, std::less<>>;
// What one proxy (or all ztunnels) can subscribe to: type URL -> name -> resource.
using ResourceSet = std::map<std::string, ResourcesByName, std::less<>>;

}  // namespace qanat::controlplane
