// SPDX-License-Identifier: Apache-2.0
// Goldens, checked by hand against the reference's derivation: YAML in, protobuf text out.
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "common/proto/authorization.pb.h"
#include "common/proto/workload.pb.h"
#include "controlplane/source/store.h"
#include "controlplane/translate/address.h"
#include "controlplane/translate/authorization.h"
#include "controlplane/translate/status.h"

namespace qanat::controlplane {
namespace {

using google::protobuf::TextFormat;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

std::shared_ptr<const World> WorldOf(std::string_view user, std::string_view overlay = {}) {
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
  ASSERT_TRUE(TextFormat::ParseFromString(text, &wanted)) << text;
  EXPECT_EQ(Decode<T>(it->second).DebugString(), wanted.DebugString());
}

const char* kShop = R"(
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

TEST(Address, Workload) {
  const ResourcesByName out = TranslateAddresses(*WorldOf(kShop)).resources;
  ExpectGolden<istio::workload::Address>(out, "Kubernetes//Pod/shop/web-6d9f-abcde", R"(
    workload {
      uid: "Kubernetes//Pod/shop/web-6d9f-abcde"
      name: "web-6d9f-abcde"
      namespace: "shop"
      addresses: "\n[\001\005"
      addresses: "\375\221\000\001\000\000\000\000\000\000\000\000\000\000\000\005"
      tunnel_protocol: HBONE
      service_account: "web"
      node: "node1"
      canonical_name: "web"
      canonical_revision: "v2"
      workload_type: POD
      workload_name: "web"
      cluster_id: "Kubernetes"
      services {
        key: "shop/web.shop.svc.cluster.local"
        value { ports { service_port: 80 target_port: 8080 }
                ports { service_port: 9000 target_port: 9000 } }
      }
      services {
        key: "shop/web-headless.shop.svc.cluster.local"
        value { ports { service_port: 80 target_port: 8080 } }
      }
      locality { region: "r1" zone: "z1" }
    })");
  EXPECT_THAT(out.at("Kubernetes//Pod/shop/web-6d9f-abcde").aliases,
              ElementsAre("/10.91.1.5", "/fd91:1::5"));
  ExpectGolden<istio::workload::Address>(out, "Kubernetes//Pod/shop/bare", R"(
    workload {
      uid: "Kubernetes//Pod/shop/bare" name: "bare" namespace: "shop" addresses: "\n[\001\006"
      service_account: "default" node: "node1" canonical_name: "other" canonical_revision: "latest"
      workload_type: POD workload_name: "bare" cluster_id: "Kubernetes" status: UNHEALTHY
      locality { region: "r1" zone: "z1" }
    })");
  EXPECT_FALSE(out.contains("Kubernetes//Pod/shop/done"));
  EXPECT_FALSE(out.contains("Kubernetes//Pod/shop/waiting"));
  const auto host = Decode<istio::workload::Address>(out.at("Kubernetes//Pod/shop/hostpod"));
  EXPECT_EQ(host.workload().network_mode(), istio::workload::HOST_NETWORK);
  EXPECT_EQ(host.workload().tunnel_protocol(), istio::workload::NONE);
  EXPECT_THAT(out.at("Kubernetes//Pod/shop/hostpod").aliases, IsEmpty());
}

TEST(Address, Service) {
  const ResourcesByName out = TranslateAddresses(*WorldOf(kShop)).resources;
  ExpectGolden<istio::workload::Address>(out, "shop/web.shop.svc.cluster.local", R"(
    service {
      name: "web" namespace: "shop" hostname: "web.shop.svc.cluster.local"
      addresses { address: "\n`\000\n" }
      addresses { address: "\375\226\000\000\000\000\000\000\000\000\000\000\000\000\000\n" }
      ports { service_port: 80 app_protocol: HTTP11 }
      ports { service_port: 9000 target_port: 9000 app_protocol: TCP }
      ports { service_port: 81 }
      load_balancing { routing_preference: [NETWORK, REGION, ZONE, SUBZONE] mode: FAILOVER }
      ip_families: DUAL
      canonical: true
    })");
  EXPECT_THAT(out.at("shop/web.shop.svc.cluster.local").aliases,
              ElementsAre("/10.96.0.10", "/fd96::a"));
  ExpectGolden<istio::workload::Address>(out, "shop/web-headless.shop.svc.cluster.local", R"(
    service {
      name: "web-headless" namespace: "shop" hostname: "web-headless.shop.svc.cluster.local"
      ports { service_port: 80 target_port: 8080 }
      load_balancing { health_policy: ALLOW_ALL }
      canonical: true
    })");
}

TEST(Address, SameWorldSameBytesAndVersionsFollowContent) {
  const ResourcesByName a = TranslateAddresses(*WorldOf(kShop)).resources;
  const ResourcesByName b = TranslateAddresses(*WorldOf(kShop)).resources;
  std::string changed = kShop;
  changed.replace(changed.find("version: v2"), 11, "version: v3");
  const ResourcesByName c = TranslateAddresses(*WorldOf(changed)).resources;
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, resource] : a) EXPECT_EQ(*resource.wire, *b.at(name).wire);
  EXPECT_NE(a.at("Kubernetes//Pod/shop/web-6d9f-abcde").version,
            c.at("Kubernetes//Pod/shop/web-6d9f-abcde").version);
  EXPECT_EQ(a.at("Kubernetes//Pod/shop/bare").version, c.at("Kubernetes//Pod/shop/bare").version);
}

std::string WithWaypoint(const std::string& gateway, const std::string& service_labels,
                         const std::string& namespace_labels = "{}") {
  return "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: " + namespace_labels +
         "}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, labels: " +
         service_labels + "}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n---\n" + gateway;
}

const char* kGateway =
    "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: w, namespace: "
    "shop}\n"
    "spec: {gatewayClassName: qanat-waypoint, listeners: [{name: mesh, port: 15008, protocol: "
    "HBONE}]}\n";
const char* kReady = "status: {addresses: [{type: IPAddress, value: 10.96.0.99}]}\n";

istio::workload::Service ServiceIn(const std::string& yaml) {
  return Decode<istio::workload::Address>(
             TranslateAddresses(*WorldOf(yaml)).resources.at("shop/web.shop.svc.cluster.local"))
      .service();
}

std::string StatusOf(const std::string& yaml, const std::string& kind, const std::string& name) {
  std::string out;
  for (const ObjectStatus& status : BuildStatus(*WorldOf(yaml))) {
    if (status.kind != kind || status.name.name != name) continue;
    for (const StatusCondition& c : status.conditions) {
      out += c.type + (c.status ? "=True " : "=False ") + c.reason + "\n";
    }
  }
  return out;
}

TEST(Waypoint, ReadyOneIsReferredToByHostName) {
  const std::string yaml =
      WithWaypoint(std::string(kGateway) + kReady, "{istio.io/use-waypoint: w}");
  const istio::workload::Service service = ServiceIn(yaml);
  EXPECT_EQ(service.waypoint().hostname().namespace_(), "shop");
  EXPECT_EQ(service.waypoint().hostname().hostname(), "w.shop.svc.cluster.local");
  EXPECT_EQ(service.waypoint().hbone_mtls_port(), 15008u);
  EXPECT_EQ(StatusOf(yaml, "Service", "web"), "istio.io/WaypointBound=True WaypointAccepted\n");
  // The waypoint has a service of its own although no object says so, and never a waypoint.
  const ResourcesByName out = TranslateAddresses(*WorldOf(yaml)).resources;
  const auto own = Decode<istio::workload::Address>(out.at("shop/w.shop.svc.cluster.local"));
  EXPECT_EQ(own.service().addresses_size(), 1);
  EXPECT_FALSE(own.service().has_waypoint());
}

// Stock istiod drops the reference and traffic goes direct, past every L7 policy. Here a proxy is
// left with a reference that leads nowhere, and refuses.
TEST(Waypoint, NamedButNotThereNeverMeansDirect) {
  for (const auto& [yaml, reason] : std::vector<std::pair<std::string, std::string>>{
           {WithWaypoint(kGateway, "{istio.io/use-waypoint: w}"), "WaypointIsNotReady"},
           {WithWaypoint("", "{istio.io/use-waypoint: nowhere}"), "WaypointIsMissing"},
           {WithWaypoint("", "{}", "{istio.io/use-waypoint: nowhere}"), "WaypointIsMissing"},
           {WithWaypoint(std::string("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n"
                                     "metadata: {name: w, namespace: other}\nspec: "
                                     "{gatewayClassName: istio-waypoint, listeners: [{name: mesh, "
                                     "port: 15008, protocol: HBONE}]}\n") +
                             kReady,
                         "{istio.io/use-waypoint: w, istio.io/use-waypoint-namespace: other}"),
            "AttachmentDenied"},
           {WithWaypoint(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: "
                "w, namespace: shop}\nspec: {gatewayClassName: istio}\n",
                "{istio.io/use-waypoint: w}"),
            "NotAWaypoint"}}) {
    EXPECT_TRUE(ServiceIn(yaml).has_waypoint()) << yaml;
    EXPECT_EQ(StatusOf(yaml, "Service", "web"), "istio.io/WaypointBound=False " + reason + "\n");
  }
}

TEST(Waypoint, NoneOptsOutAndWaypointForIsHeeded) {
  const std::string ready = std::string(kGateway) + kReady;
  EXPECT_FALSE(
      ServiceIn(WithWaypoint(ready, "{istio.io/use-waypoint: none}", "{istio.io/use-waypoint: w}"))
          .has_waypoint());
  EXPECT_TRUE(ServiceIn(WithWaypoint(ready, "{}", "{istio.io/use-waypoint: w}")).has_waypoint());
  std::string workload = ready;
  workload.replace(workload.find("name: w,"), 8,
                   "name: w, labels: {istio.io/waypoint-for: workload},");
  const std::string yaml = WithWaypoint(workload, "{istio.io/use-waypoint: w}");
  EXPECT_FALSE(ServiceIn(yaml).has_waypoint());
  EXPECT_EQ(StatusOf(yaml, "Service", "web"),
            "istio.io/WaypointBound=False TrafficTypeNotSupported\n");
}

// --- Authorization ----------------------------------------------------------------------------

std::string Policy(const std::string& spec, const std::string& ns = "shop") {
  return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, "
         "namespace: " +
         ns + "}\nspec: " + spec + "\n";
}

void ExpectPolicy(const std::string& spec, const std::string& text) {
  SCOPED_TRACE(spec);
  ExpectGolden<istio::security::Authorization>(TranslateAuthorizations(*WorldOf(Policy(spec))),
                                               "shop/p", "name: 'p' namespace: 'shop' " + text);
}

TEST(Authorization, Scopes) {
  ExpectPolicy("{}", "scope: NAMESPACE");  // ALLOW without rules: denies all
  ExpectPolicy("{selector: {matchLabels: {app: a}}, action: DENY}",
               "scope: WORKLOAD_SELECTOR action: DENY");
  ExpectGolden<istio::security::Authorization>(
      TranslateAuthorizations(*WorldOf(Policy("{rules: [{}]}", "istio-system"))), "istio-system/p",
      "name: 'p' namespace: 'istio-system' scope: GLOBAL rules {}");
  EXPECT_THAT(
      TranslateAuthorizations(*WorldOf(Policy("{targetRefs: [{kind: Service, name: web}]}"))),
      IsEmpty());
  EXPECT_THAT(TranslateAuthorizations(*WorldOf(Policy("{action: AUDIT}"))), IsEmpty());
}

TEST(Authorization, EveryL4Field) {
  ExpectPolicy(R"({rules: [{
      from: [{source: {principals: [cluster.local/ns/a/sa/b, "*", "x*", "*y"], notPrincipals: [z],
                       namespaces: [n1], notNamespaces: ["n2*"]}},
             {source: {serviceAccounts: [sa1, other/sa2], notServiceAccounts: [o/s],
                       ipBlocks: [10.0.0.0/8, "fd00::1"], notIpBlocks: [10.1.2.3]}}],
      to: [{operation: {ports: ["80", "8080"], notPorts: ["443"]}}],
      when: [{key: source.ip, values: [1.2.3.0/24], notValues: [1.2.3.4]},
             {key: source.namespace, values: [m]}, {key: source.principal, notValues: ["*"]},
             {key: destination.ip, values: [10.0.0.1]}, {key: destination.port, values: ["9"]}]}]})",
               R"(scope: NAMESPACE rules {
      clauses {
        matches { namespaces { exact: "n1" } not_namespaces { prefix: "n2" }
                  principals { exact: "cluster.local/ns/a/sa/b" } principals { presence {} }
                  principals { prefix: "x" } principals { suffix: "y" } not_principals { exact: "z" } }
        matches { service_accounts { namespace: "shop" serviceAccount: "sa1" }
                  service_accounts { namespace: "other" serviceAccount: "sa2" }
                  not_service_accounts { namespace: "o" serviceAccount: "s" }
                  source_ips { address: "\n\000\000\000" length: 8 }
                  source_ips { address: "\375\000\000\000\000\000\000\000\000\000\000\000\000\000\000\001" length: 128 }
                  not_source_ips { address: "\n\001\002\003" length: 32 } } }
      clauses { matches { destination_ports: [80, 8080] not_destination_ports: 443 } }
      clauses { matches { source_ips { address: "\001\002\003\000" length: 24 }
                          not_source_ips { address: "\001\002\003\004" length: 32 } } }
      clauses { matches { namespaces { exact: "m" } } }
      clauses { matches { not_principals { presence {} } } }
      clauses { matches { destination_ips { address: "\n\000\000\001" length: 32 } } }
      clauses { matches { destination_ports: 9 } }
    })");
}

TEST(Authorization, HttpInAllowDropsTheRule) {
  ExpectPolicy(
      R"({rules: [{from: [{source: {namespaces: [a]}}], to: [{operation: {methods: [GET]}}]},
                           {from: [{source: {namespaces: [b]}}]}]})",
      "scope: NAMESPACE rules { clauses { matches { namespaces { exact: 'b' } } } }");
  ExpectPolicy("{rules: [{to: [{operation: {paths: [/x], ports: ['80']}}]}]}", "scope: NAMESPACE");
  ExpectPolicy("{rules: [{when: [{key: 'request.headers[x]', values: [y]}]}]}", "scope: NAMESPACE");
  ExpectPolicy("{rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}", "scope: NAMESPACE");
}

TEST(Authorization, HttpInDenyKeepsTheRestAndNeverAnEmptyMatch) {
  ExpectPolicy(R"({action: DENY, rules: [{from: [{source: {namespaces: [a]}}],
                                          to: [{operation: {methods: [GET], ports: ["80"]}}]}]})",
               R"(scope: NAMESPACE action: DENY rules {
                 clauses { matches { namespaces { exact: 'a' } } }
                 clauses { matches { destination_ports: 80 } } })");
  // Nothing is left: a rule without clauses, which matches everything.
  ExpectPolicy("{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}",
               "scope: NAMESPACE action: DENY rules {}");
  // One alternative of two is not enforceable here: the clause is true, not just the other half.
  ExpectPolicy(
      "{action: DENY, rules: [{to: [{operation: {paths: [/a]}}, {operation: {ports: ['80']}}]}]}",
      "scope: NAMESPACE action: DENY rules {}");
}

TEST(Authorization, NotUnderstoodFailsClosedInItsPart) {
  // ALLOW: a bad value matches nothing, its neighbours still do; a bad exclusion excludes all.
  ExpectPolicy("{rules: [{from: [{source: {ipBlocks: [300.1.1.1, 10.0.0.0/8]}}]}]}",
               R"(scope: NAMESPACE rules { clauses { matches {
                 source_ips { address: "\n\000\000\000" length: 8 } } } })");
  ExpectPolicy("{rules: [{from: [{source: {ipBlocks: [nonsense]}}]}]}", "scope: NAMESPACE");
  ExpectPolicy("{rules: [{from: [{source: {namespaces: [a], notIpBlocks: [10.0.0.0/40]}}]}]}",
               "scope: NAMESPACE");
  ExpectPolicy("{rules: [{from: [{source: {namespace: [a]}}, {source: {namespaces: [b]}}]}]}",
               "scope: NAMESPACE rules { clauses { matches { namespaces { exact: 'b' } } } }");
  ExpectPolicy("{rules: [{to: [{operation: {ports: ['80-90']}}]}]}", "scope: NAMESPACE");
  ExpectPolicy("{rules: [{to: [{operation: {ports: ['65616']}}]}]}", "scope: NAMESPACE");
  ExpectPolicy("{rules: [{from: [{source: {principals: ['a*b']}}]}]}", "scope: NAMESPACE");
  ExpectPolicy("{rules: [{from: []}]}", "scope: NAMESPACE");
  ExpectPolicy("{rules: [{unless: x}]}", "scope: NAMESPACE");
  // DENY: a bad value stands for anything; a bad exclusion excludes nothing.
  ExpectPolicy(
      "{action: DENY, rules: [{from: [{source: {namespaces: [a], ipBlocks: [bad, 10.0.0.0/8]}}]}]}",
      "scope: NAMESPACE action: DENY rules { clauses { matches { namespaces { exact: 'a' } } } }");
  ExpectPolicy("{action: DENY, rules: [{from: [{source: {ipBlocks: [bad]}}]}]}",
               "scope: NAMESPACE action: DENY rules {}");
  ExpectPolicy("{action: DENY, rules: [{from: [{source: {notIpBlocks: [bad, 10.0.0.0/8]}}]}]}",
               R"(scope: NAMESPACE action: DENY rules { clauses { matches {
                 not_source_ips { address: "\n\000\000\000" length: 8 } } } })");
  ExpectPolicy(
      "{action: DENY, rules: [{from: [{source: {namespaces: [a], colour: [red]}}]}]}",
      "scope: NAMESPACE action: DENY rules { clauses { matches { namespaces { exact: 'a' } } } }");
  // At the top: everything selected is denied.
  ExpectPolicy("{acton: DENY}", "scope: NAMESPACE action: DENY rules {}");
  ExpectPolicy("{action: PERMIT, selector: {matchLabels: {a: b}}}",
               "scope: WORKLOAD_SELECTOR action: DENY rules {}");
  // CUSTOM asks an authorizer that a node proxy cannot reach.
  ExpectPolicy(
      "{action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {ports: ['80']}}]}]}",
      "scope: NAMESPACE action: DENY rules { clauses { matches { destination_ports: 80 } } }");
}

TEST(Authorization, Statuses) {
  EXPECT_EQ(StatusOf(Policy("{}"), "AuthorizationPolicy", "p"), "ZtunnelAccepted=True Accepted\n");
  EXPECT_EQ(StatusOf(Policy("{rules: [{to: [{operation: {methods: [GET]}}]}]}"),
                     "AuthorizationPolicy", "p"),
            "ZtunnelAccepted=True UnsupportedValue\n");
  EXPECT_EQ(StatusOf(Policy("{action: AUDIT}"), "AuthorizationPolicy", "p"),
            "ZtunnelAccepted=False UnsupportedValue\n");
  EXPECT_EQ(StatusOf(Policy("{acton: DENY}"), "AuthorizationPolicy", "p"),
            "ZtunnelAccepted=False Invalid\n");
  EXPECT_EQ(
      StatusOf(Policy("{targetRefs: [{kind: Service, name: web}]}"), "AuthorizationPolicy", "p"),
      "WaypointAccepted=False TargetNotFound\n");
  const std::string bound =
      Policy("{targetRefs: [{kind: Service, name: web}]}") + "---\n" +
      WithWaypoint(std::string(kGateway) + kReady, "{istio.io/use-waypoint: w}");
  EXPECT_EQ(StatusOf(bound, "AuthorizationPolicy", "p"), "WaypointAccepted=True Accepted\n");
  const std::string unbound =
      Policy("{targetRefs: [{kind: Service, name: web}]}") + "---\n" + WithWaypoint("", "{}");
  EXPECT_EQ(StatusOf(unbound, "AuthorizationPolicy", "p"),
            "WaypointAccepted=False AncestorNotBound\n");
}

// --- PeerAuthentication -------------------------------------------------------------------------

std::string Peer(const std::string& ns, const std::string& name, const std::string& spec) {
  return "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: " +
         name + ", namespace: " + ns + "}\nspec: " + spec + "\n";
}

std::vector<std::string> Listed(const std::string& peers) {
  const auto world = WorldOf(std::string(kShop) + peers);
  return PoliciesOf(*world, *world->FindPod({"shop", "web-6d9f-abcde"}));
}

constexpr const char* kStrict = "istio-system/istio_converted_static_strict";

TEST(PeerAuthentication, MeshNamespaceWorkloadPrecedence) {
  EXPECT_THAT(Listed(""), IsEmpty());
  EXPECT_THAT(Listed(Peer("istio-system", "default", "{mtls: {mode: STRICT}}")),
              ElementsAre(kStrict));
  EXPECT_THAT(Listed(Peer("istio-system", "default", "{mtls: {mode: STRICT}}") +
                     Peer("shop", "d", "{mtls: {mode: PERMISSIVE}}")),
              IsEmpty());
  EXPECT_THAT(Listed(Peer("istio-system", "default", "{mtls: {mode: STRICT}}") +
                     Peer("shop", "d", "{mtls: {mode: UNSET}}")),
              ElementsAre(kStrict));
  EXPECT_THAT(
      Listed(Peer("shop", "d", "{mtls: {mode: STRICT}}") +
             Peer("shop", "w", "{selector: {matchLabels: {app: web}}, mtls: {mode: DISABLE}}")),
      IsEmpty());
  EXPECT_THAT(
      Listed(Peer("shop", "w", "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}")),
      ElementsAre(kStrict));
  EXPECT_THAT(
      Listed(Peer("shop", "w", "{selector: {matchLabels: {app: no}}, mtls: {mode: STRICT}}")),
      IsEmpty());
}

TEST(PeerAuthentication, StaticStrictIsSentOnceAnyExists) {
  EXPECT_THAT(TranslateAuthorizations(*WorldOf(kShop)), IsEmpty());
  ExpectGolden<istio::security::Authorization>(
      TranslateAuthorizations(*WorldOf(Peer("shop", "d", "{mtls: {mode: PERMISSIVE}}"))), kStrict,
      R"(name: "istio_converted_static_strict" namespace: "istio-system" scope: WORKLOAD_SELECTOR
         action: DENY rules { clauses { matches { not_principals { presence {} } } } })");
}

TEST(PeerAuthentication, PortLevels) {
  const std::string exempt =
      Peer("shop", "w",
           "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, "
           "portLevelMtls: {8080: {mode: PERMISSIVE}, 9000: {mode: DISABLE}, 7: "
           "{mode: STRICT}}}");
  EXPECT_THAT(Listed(exempt), ElementsAre("shop/converted_peer_authentication_w"));
  ExpectGolden<istio::security::Authorization>(
      TranslateAuthorizations(*WorldOf(exempt)), "shop/converted_peer_authentication_w",
      R"(name: "converted_peer_authentication_w" namespace: "shop" scope: WORKLOAD_SELECTOR action: DENY
         rules { clauses { matches { not_principals { presence {} } } }
                 clauses { matches { not_destination_ports: 8080 } }
                 clauses { matches { not_destination_ports: 9000 } } })");
  const std::string strict_port =
      Peer("shop", "w",
           "{selector: {matchLabels: {app: web}}, portLevelMtls: {8080: "
           "{mode: STRICT}, 9000: {mode: PERMISSIVE}}}");
  EXPECT_THAT(Listed(strict_port), ElementsAre("shop/converted_peer_authentication_w"));
  ExpectGolden<istio::security::Authorization>(
      TranslateAuthorizations(*WorldOf(strict_port)), "shop/converted_peer_authentication_w",
      R"(name: "converted_peer_authentication_w" namespace: "shop" scope: WORKLOAD_SELECTOR action: DENY
         rules { clauses { matches { not_principals { presence {} } } }
                 clauses { matches { destination_ports: 8080 } } })");
  // UNSET under a STRICT parent, with an exempt port: the strictness is merged in.
  EXPECT_THAT(Listed(Peer("istio-system", "default", "{mtls: {mode: STRICT}}") +
                     Peer("shop", "w",
                          "{selector: {matchLabels: {app: web}}, portLevelMtls: {8080: "
                          "{mode: DISABLE}}}")),
              ElementsAre("shop/converted_peer_authentication_w"));
  // All strict: just the static one.
  EXPECT_THAT(Listed(Peer("shop", "w",
                          "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, "
                          "portLevelMtls: {8080: {mode: STRICT}}}")),
              ElementsAre(kStrict));
}

TEST(Check, NamedPortThatNoPodHas) {
  const std::vector<Issue> issues = CheckWorld(*WorldOf(kShop));
  ASSERT_THAT(issues, SizeIs(1));
  EXPECT_EQ(issues[0].object, "Service shop/web");
  EXPECT_EQ(issues[0].line, 24);
  EXPECT_THAT(issues[0].message, HasSubstr("container port named \"nobody-has-it\""));
}

TEST(Check, SubsetsAndHosts) {
  const std::string yaml = std::string(kShop) + R"(
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d, namespace: shop}
spec: {host: web, subsets: [{name: v2, labels: {version: v2}}, {name: v9, labels: {version: v9}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: shop}
spec: {hosts: [web], http: [{route: [{destination: {host: web, subset: v8}}]}, {route: [{destination: {host: gone}}]}]}
)";
  std::vector<std::string> messages;
  for (const Issue& issue : CheckWorld(*WorldOf(yaml))) messages.push_back(issue.message);
  EXPECT_THAT(messages, ElementsAre(HasSubstr("nobody-has-it"),
                                    "subset v8 of web.shop.svc.cluster.local is defined by no "
                                    "DestinationRule",
                                    "destination gone.shop.svc.cluster.local: no such Service",
                                    "subset v9 selects none of the 4 pods of "
                                    "web.shop.svc.cluster.local"));
  EXPECT_EQ(StatusOf(yaml, "VirtualService", "v"), "Applied=False NoWaypoint\n");
}

TEST(Shapes, UserYamlTranslatesAndIsAnswered) {
  std::ifstream in(QANAT_TESTDATA "/user_shapes.yaml");
  std::stringstream text;
  text << in.rdbuf();
  const auto world = WorldOf(text.str());
  EXPECT_THAT(TranslateAuthorizations(*world), SizeIs(3));  // two policies, static strict
  ExpectGolden<istio::security::Authorization>(
      TranslateAuthorizations(*world), "production/frontend-ingress",
      "name: 'frontend-ingress' namespace: 'production' scope: WORKLOAD_SELECTOR");
  EXPECT_EQ(StatusOf(text.str(), "AuthorizationPolicy", "frontend-ingress"),
            "ZtunnelAccepted=True UnsupportedValue\n");
  EXPECT_EQ(StatusOf(text.str(), "RequestAuthentication", "jwt-auth"),
            "WaypointAccepted=False UnsupportedValue\n");
  EXPECT_EQ(StatusOf(text.str(), "VirtualService", "reviews-route"),
            "Applied=False HostNotFound\n");
}

TEST(Entries, ServiceEntryAndOpaqueSlices) {
  const AddressTable table = TranslateAddresses(*WorldOf(R"(
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, namespace: shop}
spec:
  hosts: [api.example.com]
  addresses: [192.0.2.10, 192.0.2.128/25]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.7, ports: {tls: 8443}, weight: 3, locality: r/z}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: dns, namespace: shop}
spec: {hosts: [db.example.com], ports: [{number: 5432, name: tcp}], resolution: DNS}
---
apiVersion: v1
kind: Service
metadata: {name: legacy, namespace: shop}
spec: {ports: [{name: x, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: legacy-1, namespace: shop, labels: {kubernetes.io/service-name: legacy}}
addressType: IPv4
ports: [{name: x, port: 8080}]
endpoints: [{addresses: [203.0.113.4]}]
)"));
  const ResourcesByName& out = table.resources;
  EXPECT_THAT(table.members.at("shop/api.example.com"),
              ElementsAre("Kubernetes/networking.istio.io/ServiceEntry/shop/ext/198.51.100.7"));
  ExpectGolden<istio::workload::Address>(out, "shop/api.example.com", R"(service {
      name: "ext" namespace: "shop" hostname: "api.example.com"
      addresses { address: "\300\000\002\n" } addresses { address: "\300\000\002\200" length: 25 }
      ports { service_port: 443 target_port: 443 app_protocol: TLS } })");
  ExpectGolden<istio::workload::Address>(
      out, "Kubernetes/networking.istio.io/ServiceEntry/shop/ext/198.51.100.7", R"(workload {
      uid: "Kubernetes/networking.istio.io/ServiceEntry/shop/ext/198.51.100.7" name: "ext"
      namespace: "shop" addresses: "\3063d\007" canonical_name: "ext" canonical_revision: "latest"
      workload_type: POD workload_name: "ext" cluster_id: "Kubernetes"
      services { key: "shop/api.example.com" value { ports { service_port: 443 target_port: 8443 } } }
      locality { region: "r" zone: "z" } capacity { value: 3 } })");
  const auto dns = Decode<istio::workload::Address>(
      out.at("Kubernetes/networking.istio.io/ServiceEntry/shop/dns/db.example.com"));
  EXPECT_EQ(dns.workload().hostname(), "db.example.com");
  EXPECT_EQ(dns.workload().addresses_size(), 0);
  ExpectGolden<istio::workload::Address>(
      out, "Kubernetes/discovery.k8s.io/EndpointSlice/shop/legacy-1/203.0.113.4", R"(workload {
      uid: "Kubernetes/discovery.k8s.io/EndpointSlice/shop/legacy-1/203.0.113.4" name: "legacy-1"
      namespace: "shop" addresses: "\313\000q\004" cluster_id: "Kubernetes" network_mode: HOST_NETWORK
      services { key: "shop/legacy.shop.svc.cluster.local"
                 value { ports { service_port: 80 target_port: 8080 } } } })");
}

}  // namespace
}  // namespace qanat::controlplane
