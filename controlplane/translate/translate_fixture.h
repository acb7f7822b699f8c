// SPDX-License-Identifier: Apache-2.0
// For tests: YAML in, protobuf text out.
#pragma once

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>

#include "controlplane/source/store.h"
#include "controlplane/translate/status.h"

namespace qanat::controlplane {

inline std::shared_ptr<const World> WorldOf(std::string_view user, std::string_view overlay = {}) {
  return World::Build(LoadText(user, overlay).objects, {});
}

// Takes the message out of the encoded delta Resource: Any in field 2, value in its field 2.
template <typename T>
T Decode(const Resource& resource) {
  const auto field = [](std::string_view bytes, int wanted) {
    std::string_view found;
    while (!bytes.empty()) {
      const int number = static_cast<unsigned char>(bytes[0]) >> 3;
      size_t at = 1;
      size_t length = 0;
      for (int shift = 0;; shift += 7) {
        const auto byte = static_cast<unsigned char>(bytes[at++]);
        length |= static_cast<size_t>(byte & 0x7f) << shift;
        if (byte < 0x80) break;
      }
      if (number == wanted) found = bytes.substr(at, length);
      bytes.remove_prefix(at + length);
    }
    return found;
  };
  T out;
  const std::string_view body = field(field(*resource.wire, 2), 2);
  EXPECT_TRUE(out.ParseFromArray(body.data(), static_cast<int>(body.size())));
  return out;
}

template <typename T>
void ExpectGolden(const ResourcesByName& resources, const std::string& name,
                  const std::string& text) {
  const auto it = resources.find(name);
  std::string names;
  for (const auto& [n, r] : resources) names += n + "\n";
  ASSERT_NE(it, resources.end()) << name << " is not among\n" << names;
  T wanted;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &wanted)) << text;
  EXPECT_EQ(Decode<T>(it->second).DebugString(), wanted.DebugString());
}

constexpr const char* kShop = R"(
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Node
metadata:
  name: node1
  labels: {topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: z1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd96::a"]
  ipFamilies: [IPv4, IPv6]
  trafficDistribution: PreferClose
  ports:
  - {name: http, port: 80, targetPort: web}
  - {name: tcp-admin, port: 9000}
  - {name: other, port: 81, targetPort: nobody-has-it}
---
apiVersion: v1
kind: Service
metadata: {name: web-headless, namespace: shop}
spec: {selector: {app: web}, clusterIP: None, publishNotReadyAddresses: true, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-6d9f-abcde
  namespace: shop
  uid: 11111111-1111-1111-1111-111111111111
  generateName: web-6d9f-
  labels: {app: web, version: v2, pod-template-hash: 6d9f}
  annotations: {ambient.istio.io/redirection: enabled}
  ownerReferences: [{kind: ReplicaSet, name: web-6d9f, controller: true}]
spec:
  nodeName: node1
  serviceAccountName: web
  containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]
status:
  phase: Running
  podIP: 10.91.1.5
  podIPs: [{ip: 10.91.1.5}, {ip: "fd91:1::5"}]
  conditions: [{type: Ready, status: "True"}]
---
apiVersion: v1
kind: Pod
metadata: {name: bare, namespace: shop, labels: {app: other}}
spec: {nodeName: node1}
status: {phase: Running, podIP: 10.91.1.6, conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: done, namespace: shop, labels: {app: web}}
status: {phase: Succeeded, podIP: 10.91.1.7}
---
apiVersion: v1
kind: Pod
metadata: {name: waiting, namespace: shop, labels: {app: web}}
status: {phase: Pending}
---
apiVersion: v1
kind: Pod
metadata: {name: hostpod, namespace: shop, labels: {app: web}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {hostNetwork: true, nodeName: node1}
status: {phase: Running, podIP: 10.90.0.1}
)";

inline std::string WithWaypoint(const std::string& gateway, const std::string& service_labels,
                                const std::string& namespace_labels = "{}") {
  return "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: " + namespace_labels +
         "}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, labels: " +
         service_labels + "}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n---\n" + gateway;
}

constexpr const char* kGateway =
    "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: w, namespace: "
    "shop}\n"
    "spec: {gatewayClassName: qanat-waypoint, listeners: [{name: mesh, port: 15008, protocol: "
    "HBONE}]}\n";
constexpr const char* kReady = "status: {addresses: [{type: IPAddress, value: 10.96.0.99}]}\n";

inline std::string StatusOf(const std::string& yaml, const std::string& kind,
                            const std::string& name) {
  std::string out;
  for (const ObjectStatus& status : BuildStatus(*WorldOf(yaml))) {
    if (status.kind != kind || status.name.name != name) continue;
    for (const StatusCondition& c : status.conditions) {
      out += c.type + (c.status ? "=True " : "=False ") + c.reason + "\n";
    }
  }
  return out;
}

}  // namespace qanat::controlplane
