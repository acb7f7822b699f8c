// SPDX-License-Identifier: Apache-2.0
// Envoy resources for tests, in the shape that controlplane/envoy promises, from protobuf text:
// real bytes, so that the decoders are part of what is tested.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "waypoint/config/store.h"

namespace qanat::waypoint::test {

struct TestEndpoint {
  std::string address;   // "127.0.0.1:8080"
  std::string tunnel;    // HBONE when set: where its tunnel ends
  std::string identity;  // SPIFFE URI, for HBONE
  bool healthy = true;
  int weight = 1;
  std::string workload = "backend-v1";
};

struct TestCluster {
  std::string name;
  std::vector<TestEndpoint> endpoints;
  std::string extra;  // text added to the Cluster
  std::string lb = "LEAST_REQUEST";
};

struct TestService {
  std::string host = "backend.shop.svc.cluster.local";
  std::string vip = "10.96.0.10";
  int port = 80;
  enum class Kind { kHttp, kTcp, kSniff } kind = Kind::kHttp;
  std::string virtual_host;  // text inside of the virtual host: routes, typed_per_filter_config
  std::string hcm;           // text added to the HttpConnectionManager
  std::string tcp_rbac;      // text of a network RBAC's `rules`
  std::string tcp_cluster;
  std::string chain(std::string_view protocol) const;
};

struct Resources {
  std::vector<TestService> services;
  std::vector<TestCluster> clusters;
  // Into the store, as one push of every type. The errors, if any, by resource name.
  std::map<std::string, std::string> Apply(ConfigStore& store) const;
};

// The three overrides of a virtual host; empty text: that filter does nothing.
std::string RbacOverrides(std::string_view deny_policies, std::string_view allow_policies,
                          bool has_allow);
// policies { key: NAME value { permissions {...} principals {...} } }
std::string RbacPolicyText(std::string_view name, std::string_view permission,
                           std::string_view principal);

std::string ListenerBytes(const std::vector<TestService>& services);
std::string RoutesBytes(const TestService& service);
std::string ClusterBytes(const TestCluster& cluster);
std::string EndpointsBytes(const TestCluster& cluster);

}  // namespace qanat::waypoint::test
