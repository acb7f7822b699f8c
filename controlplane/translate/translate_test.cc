// SPDX-License-Identifier: Apache-2.0
// Goldens, checked by hand against the reference's derivation: YAML in, protobuf text out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "common/proto/authorization.pb.h"
#include "common/proto/workload.pb.h"
#include "controlplane/translate/address.h"
#include "controlplane/translate/authorization.h"
#include "controlplane/translate/translate_fixture.h"

namespace qanat::controlplane {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

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

istio::workload::Service ServiceIn(const std::string& yaml) {
  return Decode<istio::workload::Address>(
             TranslateAddresses(*WorldOf(yaml)).resources.at("shop/web.shop.svc.cluster.local"))
      .service();
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

TEST(Waypoint, RequireWaypointReachesTheProxies) {
  const auto requires_it = [](const std::string& yaml) {
    const istio::workload::Service service = ServiceIn(yaml);
    return service.extensions_size() == 1 &&
           service.extensions(0).name() == "qanat.io/require-waypoint";
  };
  const std::string ready = std::string(kGateway) + kReady;
  const std::string use = "{istio.io/use-waypoint: w}";
  EXPECT_FALSE(requires_it(WithWaypoint(ready, use)));
  EXPECT_TRUE(requires_it(
      WithWaypoint(ready, "{istio.io/use-waypoint: w, qanat.io/require-waypoint: 'true'}")));
  EXPECT_TRUE(requires_it(WithWaypoint(ready, use, "{qanat.io/require-waypoint: 'true'}")));
  EXPECT_FALSE(requires_it(WithWaypoint(ready, "{qanat.io/require-waypoint: 'false'}",
                                        "{qanat.io/require-waypoint: 'true'}")));
  // Its own label without a waypoint: nothing may come. The namespace's: not meant.
  EXPECT_TRUE(requires_it(WithWaypoint("", "{qanat.io/require-waypoint: 'true'}")));
  EXPECT_FALSE(requires_it(WithWaypoint("", "{}", "{qanat.io/require-waypoint: 'true'}")));
  // The waypoint's own service has no waypoint to require.
  const auto table =
      TranslateAddresses(*WorldOf(WithWaypoint(ready, use, "{qanat.io/require-waypoint: 'true'}")));
  const auto own =
      Decode<istio::workload::Address>(table.resources.at("shop/w.shop.svc.cluster.local"));
  EXPECT_EQ(own.service().extensions_size(), 0);
}

TEST(Waypoint, PodsOfOtherGatewaysAreMarked) {
  const std::string yaml = R"(
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: ingress, namespace: shop}
spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: ingress-1
  namespace: shop
  labels: {gateway.networking.k8s.io/gateway-name: ingress}
spec: {serviceAccountName: ingress, nodeName: n1}
status: {phase: Running, podIP: 10.0.0.9, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: liar, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: none}}
spec: {serviceAccountName: ingress, nodeName: n1}
status: {phase: Running, podIP: 10.0.0.10, conditions: [{type: Ready, status: "True"}]}
)";
  const auto marked = [](const std::string& text, const std::string& pod) {
    const ResourcesByName out = TranslateAddresses(*WorldOf(text)).resources;
    const auto workload =
        Decode<istio::workload::Address>(out.at("Kubernetes//Pod/shop/" + pod)).workload();
    return workload.extensions_size() == 1 && workload.extensions(0).name() == "qanat.io/gateway";
  };
  // Who may make pods and Gateways there may not say it; who may label the namespace may.
  EXPECT_FALSE(marked(yaml, "ingress-1"));
  const std::string labelled = yaml + R"(
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {qanat.io/gateways: "true"}}
)";
  EXPECT_TRUE(marked(labelled, "ingress-1"));
  EXPECT_FALSE(marked(labelled, "liar"));
}

TEST(SameNode, AWishForEncryptionReachesTheProxies) {
  const auto encrypts = [](const std::string& meta, const std::string& ns_labels) {
    const std::string yaml = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop" +
                             meta +
                             "}\nspec: {serviceAccountName: p, nodeName: n1}\n"
                             "status: {phase: Running, podIP: 10.0.0.9}\n---\n"
                             "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {" +
                             ns_labels + "}}\n";
    const ResourcesByName out = TranslateAddresses(*WorldOf(yaml)).resources;
    const auto workload =
        Decode<istio::workload::Address>(out.at("Kubernetes//Pod/shop/p")).workload();
    return workload.extensions_size() == 1 && workload.extensions(0).name() == "qanat.io/encrypt";
  };
  EXPECT_FALSE(encrypts("", ""));
  EXPECT_TRUE(encrypts(", labels: {qanat.io/same-node: encrypt}", ""));
  EXPECT_TRUE(encrypts(", annotations: {qanat.io/same-node: encrypt}", ""));
  EXPECT_TRUE(encrypts("", "qanat.io/same-node: encrypt"));
  EXPECT_FALSE(encrypts(", labels: {qanat.io/same-node: direct}", "qanat.io/same-node: encrypt"));
  EXPECT_FALSE(
      encrypts(", annotations: {qanat.io/same-node: proxy}", "qanat.io/same-node: encrypt"));
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
