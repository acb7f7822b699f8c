// SPDX-License-Identifier: Apache-2.0
// How the resources behave when the world changes: who gets what anew, and that nothing depends on
// the order in which the world was read.
#include "controlplane/envoy/translate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "controlplane/envoy/test_world.h"

namespace qanat::controlplane {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string Base() { return ReadTree("controlplane/envoy/testdata/base.yaml"); }

// "Type name" of what is new, changed or gone.
std::vector<std::string> Changes(const ResourceSet& before, const ResourceSet& after) {
  std::vector<std::string> changes;
  for (const auto& [type, resources] : after) {
    const std::string short_type = type.substr(type.rfind('.') + 1);
    const auto& old = before.at(type);
    for (const auto& [name, resource] : resources) {
      const auto found = old.find(name);
      if (found == old.end() || found->second.version != resource.version) {
        changes.push_back(short_type + " " + name);
      }
    }
    for (const auto& [name, resource] : old) {
      if (!resources.contains(name)) changes.push_back("-" + short_type + " " + name);
    }
  }
  return changes;
}

ResourceSet ResourcesOf(const std::vector<std::string>& texts) {
  return BuildWaypoint(*WorldOfText(texts), {"app", "waypoint"}).resources;
}

std::string Pod(const std::string& name, const std::string& ip, const std::string& version) {
  return "apiVersion: v1\nkind: Pod\nmetadata:\n  name: " + name +
         "\n  namespace: app\n  uid: " + name + "\n  labels: {app: web, version: " + version +
         "}\n  annotations: {ambient.istio.io/redirection: enabled}\n"
         "spec: {nodeName: node2, serviceAccountName: web, containers: [{name: c}]}\n"
         "status: {phase: Running, podIP: " +
         ip + ", podIPs: [{ip: " + ip + "}], conditions: [{type: Ready, status: \"True\"}]}\n";
}

TEST(Translate, TheFourTypesAreAlwaysThere) {
  const WaypointConfig config = BuildWaypoint(*WorldOfText({}), {"no", "body"});
  EXPECT_EQ(config.resources.size(), 4U);
  EXPECT_EQ(config.resources.at(std::string(kListenerType)).size(), 3U);
  EXPECT_EQ(config.resources.at(std::string(kClusterType)).size(), 2U);
  EXPECT_TRUE(config.resources.at(std::string(kRouteType)).empty());
  EXPECT_TRUE(config.resources.at(std::string(kEndpointType)).empty());
  EXPECT_THAT(config.notices, IsEmpty());
}

TEST(Translate, OrderOfReadingDoesNotShow) {
  const std::string a = Pod("a", "10.91.2.1", "v1"), b = Pod("b", "10.91.2.2", "v2");
  EXPECT_THAT(Changes(ResourcesOf({Base(), a, b}), ResourcesOf({b, a, Base()})), IsEmpty());
}

TEST(Translate, APodIsOnlyEndpoints) {
  EXPECT_THAT(Changes(ResourcesOf({Base()}), ResourcesOf({Base(), Pod("a", "10.91.2.1", "v1")})),
              ElementsAre("ClusterLoadAssignment inbound-vip|80|http|web.app.svc.cluster.local"));
}

TEST(Translate, ANewAddressFamilyIsAListener) {
  EXPECT_THAT(Changes(ResourcesOf({Base()}), ResourcesOf({Base(), Pod("a", "fd91::1", "v1")})),
              ElementsAre("ClusterLoadAssignment inbound-vip|80|http|web.app.svc.cluster.local",
                          "Listener connect_terminate"));
}

constexpr const char* kAllow = R"(
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: app}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  rules: [{from: [{source: {namespaces: [a]}}]}]
)";

TEST(Translate, APolicyForHttpIsOnlyRoutes) {
  // So that it holds for the next request of every connection there is, and drains no listener.
  EXPECT_THAT(Changes(ResourcesOf({Base()}), ResourcesOf({Base(), kAllow})),
              ElementsAre("RouteConfiguration inbound-vip|80|http|web.app.svc.cluster.local"));
}

TEST(Translate, ARouteIsOnlyRoutes) {
  EXPECT_THAT(Changes(ResourcesOf({Base()}), ResourcesOf({Base(), R"(
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: app}
spec:
  hosts: [web]
  http: [{timeout: 3s, route: [{destination: {host: web}}]}]
)"})),
              ElementsAre("RouteConfiguration inbound-vip|80|http|web.app.svc.cluster.local"));
}

TEST(Translate, AnAttachedServiceOfAnotherWaypointStaysOut) {
  const auto resources = ResourcesOf({Base(), R"(
apiVersion: v1
kind: Service
metadata: {name: stranger, namespace: app}
spec: {clusterIP: 10.96.0.77, ports: [{name: http, port: 80}]}
)"});
  EXPECT_THAT(Changes(ResourcesOf({Base()}), resources), IsEmpty());
}

TEST(Translate, PoliciesOfOthersDoNotHoldHere) {
  for (const char* target :
       {"targetRefs: [{group: \"\", kind: Service, name: other}]",
        "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: other}]",
        "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: "
        "qanat-waypoint}]",  // not from the root namespace
        "selector: {matchLabels: {app: web}}", "action: ALLOW"}) {
    const std::string policy = std::string(
                                   "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
                                   "metadata: {name: p, namespace: app}\nspec:\n  ") +
                               target + "\n";
    EXPECT_THAT(Changes(ResourcesOf({Base()}), ResourcesOf({Base(), policy})), IsEmpty()) << target;
  }
}

TEST(Translate, UnreadyPodsAreNoEndpoints) {
  std::string unready = Pod("a", "10.91.2.1", "v1");
  unready.replace(unready.find("\"True\""), 6, "\"False\"");
  EXPECT_THAT(Changes(ResourcesOf({Base()}), ResourcesOf({Base(), unready})), IsEmpty());
}

TEST(Translate, TlsThatCannotBeMadeIsNotLeftOut) {
  const std::string rule = R"(
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: app}
spec: {host: web, trafficPolicy: {tls: {mode: SIMPLE}}}
)";
  const WaypointConfig config = BuildWaypoint(*WorldOfText({Base(), rule}), {"app", "waypoint"});
  ASSERT_EQ(config.notices.size(), 1U);
  EXPECT_THAT(config.notices[0].message, HasSubstr("do not originate TLS"));
  EXPECT_THAT(Changes(ResourcesOf({Base()}), config.resources),
              ElementsAre("ClusterLoadAssignment inbound-vip|80|http|web.app.svc.cluster.local"));
}

TEST(Translate, PodsThatChooseAWaypointAreToldThatItRefuses) {
  std::string gateway = ReadTree("controlplane/envoy/testdata/empty.yaml");
  const std::string name = "metadata: {name: waypoint, namespace: app";
  ASSERT_NE(gateway.find(name), std::string::npos);
  gateway.insert(gateway.find(name) + name.size(), ", labels: {istio.io/waypoint-for: all}");
  std::string pod = Pod("a", "10.91.2.1", "v1");
  pod.replace(pod.find("labels: {"), 9, "labels: {istio.io/use-waypoint: waypoint, ");
  const WaypointConfig config = BuildWaypoint(*WorldOfText({gateway, pod}), {"app", "waypoint"});
  ASSERT_EQ(config.notices.size(), 1U);
  EXPECT_THAT(config.notices[0].message, HasSubstr("serves Services only"));
}

TEST(Translate, TheShopHasNothingToComplainAbout) {
  const auto world = ShopWorld();
  for (const char* name : {"waypoint", "payments-waypoint"}) {
    for (const Notice& notice : BuildWaypoint(*world, {"shop", name}).notices) {
      ADD_FAILURE() << notice.kind << " " << notice.object.ToString() << ": " << notice.message;
    }
  }
}

}  // namespace
}  // namespace qanat::controlplane
