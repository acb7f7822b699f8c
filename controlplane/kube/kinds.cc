// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/kinds.h"

#include <algorithm>

namespace qanat::controlplane {
namespace {

constexpr const char* kGatewayApi = "gateway.networking.k8s.io";
constexpr const char* kNetworking = "networking.istio.io";
constexpr const char* kSecurity = "security.istio.io";

}  // namespace

const std::vector<kube::Resource>& WatchedKinds() {
  static const std::vector<kube::Resource> kinds = {
      {"", "v1", "namespaces", "Namespace", false},
      {"", "v1", "nodes", "Node", false},
      {"", "v1", "pods", "Pod", true},
      {"", "v1", "services", "Service", true},
      {"", "v1", "serviceaccounts", "ServiceAccount", true},
      {"discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", true},
      {kGatewayApi, "v1", "gatewayclasses", "GatewayClass", false},
      {kGatewayApi, "v1", "gateways", "Gateway", true},
      {kGatewayApi, "v1", "httproutes", "HTTPRoute", true},
      {kNetworking, "v1", "virtualservices", "VirtualService", true},
      {kNetworking, "v1", "destinationrules", "DestinationRule", true},
      {kNetworking, "v1", "serviceentries", "ServiceEntry", true},
      {kSecurity, "v1", "peerauthentications", "PeerAuthentication", true},
      {kSecurity, "v1", "authorizationpolicies", "AuthorizationPolicy", true},
      {kSecurity, "v1", "requestauthentications", "RequestAuthentication", true},
  };
  return kinds;
}

const kube::Resource* FindKind(std::string_view kind) {
  const auto& kinds = WatchedKinds();
  const auto it = std::find_if(kinds.begin(), kinds.end(),
                               [&](const kube::Resource& r) { return r.kind == kind; });
  return it == kinds.end() ? nullptr : &*it;
}

const kube::Resource& Secrets() {
  static const kube::Resource resource{"", "v1", "secrets", "Secret", true};
  return resource;
}
const kube::Resource& ConfigMaps() {
  static const kube::Resource resource{"", "v1", "configmaps", "ConfigMap", true};
  return resource;
}
const kube::Resource& Deployments() {
  static const kube::Resource resource{"apps", "v1", "deployments", "Deployment", true};
  return resource;
}
const kube::Resource& Leases() {
  static const kube::Resource resource{"coordination.k8s.io", "v1", "leases", "Lease", true};
  return resource;
}

}  // namespace qanat::controlplane
