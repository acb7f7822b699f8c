// SPDX-License-Identifier: Apache-2.0
// For tests: a small mesh as a snapshot, and answers taken apart.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "controlplane/ads/hub.h"
#include "controlplane/source/store.h"
#include "envoy/service/discovery/v3/discovery.pb.h"

namespace qanat::controlplane {

constexpr const char* kMesh = R"(
apiVersion: v1
kind: Pod
metadata: {name: ztunnel-n1, namespace: qanat-system, uid: zt1}
spec: {nodeName: n1, serviceAccountName: ztunnel, hostNetwork: true}
---
apiVersion: v1
kind: Pod
metadata: {name: w-1, namespace: shop, uid: w1, labels: {gateway.networking.k8s.io/gateway-name: w}}
spec: {nodeName: n1, serviceAccountName: w}
status: {podIP: 10.91.1.9}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: web1, labels: {app: web}}
spec: {nodeName: n1, serviceAccountName: web}
status: {podIP: 10.91.1.5}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, clusterIP: 10.96.0.10, ports: [{port: 80}]}
)";
constexpr const char* kPolicy = R"(
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {selector: {matchLabels: {app: web}}}
)";

inline std::shared_ptr<const ConfigSnapshot> SnapshotOf(const std::string& yaml) {
  static uint64_t generation = 0;
  return BuildSnapshot(World::Build(LoadText(yaml).objects, {}), ++generation);
}

inline SessionSource SourceOf(const std::shared_ptr<const ConfigSnapshot>& snapshot) {
  return {std::shared_ptr<const ResourceSet>(snapshot, &snapshot->resources), snapshot};
}

struct Response {
  std::string type, nonce;
  std::vector<std::string> names, removed;
};

inline Response Parse(const std::string& bytes) {
  envoy::service::discovery::v3::DeltaDiscoveryResponse message;
  EXPECT_TRUE(message.ParseFromString(bytes));
  Response out{message.type_url(), message.nonce(), {}, {}};
  for (const auto& resource : message.resources()) {
    EXPECT_EQ(resource.resource().type_url(), message.type_url());
    EXPECT_FALSE(resource.version().empty());
    out.names.push_back(resource.name());
  }
  out.removed.assign(message.removed_resources().begin(), message.removed_resources().end());
  return out;
}

}  // namespace qanat::controlplane
