// SPDX-License-Identifier: Apache-2.0
// Gateways and their classes: what is deployed, what is said, what is left alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/controlplane/duties_bed.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::SizeIs;

using GatewayTest = DutiesBed;

TEST_F(GatewayTest, AGatewayBecomesAWaypointAndIsProgrammedWhenAPodIsReady) {
  PutGateway();
  Lead();
  ASSERT_TRUE(Until([&] { return !Get(kDeployment).is_null(); }));
  ASSERT_TRUE(Until([&] { return !Get(kService).is_null() && !Get(kAccount).is_null(); }));
  const json deployment = Get(kDeployment);
  EXPECT_EQ(deployment["metadata"]["ownerReferences"][0]["uid"], "gw1");
  const json& pod = deployment["spec"]["template"];
  EXPECT_EQ(pod["metadata"]["labels"]["istio.io/dataplane-mode"], "none");
  EXPECT_EQ(pod["metadata"]["labels"]["team"], "a");
  EXPECT_EQ(pod["metadata"]["labels"]["gateway.istio.io/managed"], "qanat.io-mesh-controller");
  EXPECT_EQ(pod["spec"]["serviceAccountName"], "wp");
  EXPECT_EQ(pod["spec"]["automountServiceAccountToken"], false);
  const json& container = pod["spec"]["containers"][0];
  EXPECT_EQ(container["image"], "localhost/qanat/waypoint:1");
  std::map<std::string, std::string> env;
  for (const json& e : container["env"]) env[e["name"]] = e.value("value", "field");
  EXPECT_EQ(env["XDS_ADDRESS"], "https://cp:15012");
  EXPECT_EQ(env["GATEWAY_NAME"], "wp");
  EXPECT_EQ(env["POD_NAME"], "field");
  EXPECT_EQ(pod["spec"]["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["audience"],
            "istio-ca");
  EXPECT_FALSE(deployment["spec"].contains("replicas"));
  EXPECT_EQ(Get(kService)["spec"]["ports"][1]["appProtocol"], "hbone");
  ASSERT_TRUE(Is(kGateway, "Programmed", "AddressNotAssigned"));
  EXPECT_FALSE(Get(kGateway)["status"].contains("addresses"));
  MakeReady();
  ASSERT_TRUE(Is(kGateway, "Programmed", "Programmed"));
  const json status = Get(kGateway)["status"];
  EXPECT_EQ(status["addresses"][0]["value"], "wp.shop.svc.cluster.local");
  EXPECT_EQ(status["addresses"][1]["value"], "10.96.0.21");
  EXPECT_EQ(status["listeners"][0]["name"], "mesh");
  EXPECT_THAT(Condition(kGateway, "Programmed")["message"].get<std::string>(), HasSubstr("1 of 1"));
  ASSERT_TRUE(
      Is("/api/v1/namespaces/shop/services/web", "istio.io/WaypointBound", "WaypointAccepted"));
  ExpectQuiet();
  // The pod goes: the address stays, Programmed says it.
  server.Remove("/api/v1/namespaces/shop/pods/wp-1");
  ASSERT_TRUE(Is(kGateway, "Programmed", "NoResources"));
  EXPECT_THAT(Get(kGateway)["status"]["addresses"], SizeIs(2));
}

TEST_F(GatewayTest, WaypointsFollowTheImageAndTheGatewayAndAreMadeAnew) {
  PutGateway();
  Lead();
  ASSERT_TRUE(Until([&] { return !Get(kDeployment).is_null(); }));
  const auto image = [&] {
    return Get(kDeployment)["spec"]["template"]["spec"]["containers"][0].value("image", "");
  };
  // Somebody turns the image back: the generation tells.
  json changed = Get(kDeployment);
  changed["spec"]["template"]["spec"]["containers"][0]["image"] = "old";
  changed["metadata"]["generation"] = 7;
  Put(changed);
  ASSERT_TRUE(Until([&] { return image() == "localhost/qanat/waypoint:1"; }));
  // Another leader with another image.
  duties_.reset();
  Lead("localhost/qanat/waypoint:2");
  ASSERT_TRUE(Until([&] { return image() == "localhost/qanat/waypoint:2"; }));
  server.Remove(kDeployment);
  server.Remove(kService);
  ASSERT_TRUE(Until([&] { return !Get(kDeployment).is_null() && !Get(kService).is_null(); }));
  ExpectQuiet();
}

TEST_F(GatewayTest, AClassThatIsNotOursTakesTheWaypointAway) {
  PutGateway();
  Lead();
  ASSERT_TRUE(Until([&] { return !Get(kDeployment).is_null() && !Get(kAccount).is_null(); }));
  PutYaml(
      "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: other}, "
      "spec: {controllerName: example.com/x}}");
  PutGateway("other", 2);
  ASSERT_TRUE(Until([&] {
    return Get(kDeployment).is_null() && Get(kService).is_null() && Get(kAccount).is_null();
  }));
  PutGateway("istio-waypoint", 3);
  ASSERT_TRUE(Until([&] { return !Get(kDeployment).is_null(); }));
  EXPECT_EQ(Get(kDeployment)["metadata"]["labels"]["gateway.istio.io/managed"],
            "istio.io-mesh-controller");
}

TEST_F(GatewayTest, WhatSomebodyElseMadeIsNotTouched) {
  const json theirs = {{"apiVersion", "apps/v1"},
                       {"kind", "Deployment"},
                       {"metadata", {{"name", "wp"}, {"namespace", "shop"}}},
                       {"spec", {{"replicas", 3}}}};
  Put(theirs);
  PutGateway();
  Lead();
  ASSERT_TRUE(Is(kGateway, "Programmed", "NameTaken"));
  EXPECT_THAT(Condition(kGateway, "Programmed")["message"].get<std::string>(),
              HasSubstr("Deployment shop/wp exists"));
  EXPECT_EQ(Get(kDeployment)["spec"], theirs["spec"]);
  EXPECT_EQ(server.CountRequests("PATCH", "/deployments/"), 0u);
  EXPECT_TRUE(Get(kService).is_null() && Get(kAccount).is_null()) << "half a waypoint is none";
  // Once the name is free the waypoint is deployed (it is looked at every 10 s).
  server.Remove(kDeployment);
  ASSERT_TRUE(Until([&] { return !Get(kDeployment).is_null(); }));
}

TEST_F(GatewayTest, WhatAGatewayAsksInVainIsSaid) {
  PutGateway();
  json gateway = Get(kGateway);
  const json good = gateway["spec"];
  gateway["spec"]["infrastructure"]["parametersRef"] = {
      {"group", ""}, {"kind", "ConfigMap"}, {"name", "x"}};
  Put(gateway);
  Lead();
  ASSERT_TRUE(Is(kGateway, "Accepted", "InvalidParameters"));
  EXPECT_EQ(Condition(kGateway, "Accepted")["status"], "False");
  EXPECT_EQ(Condition(kGateway, "Programmed")["reason"], "Invalid");
  ExpectQuiet();
  EXPECT_TRUE(Get(kDeployment).is_null() && Get(kService).is_null());
  gateway = Get(kGateway);
  gateway["spec"] = good;
  Put(gateway);
  ASSERT_TRUE(Is(kGateway, "Accepted", "Accepted"));
  ASSERT_TRUE(Until([&] { return !Get(kDeployment).is_null(); }));
  // What runs is not taken away for it.
  MakeReady();
  ASSERT_TRUE(Is(kGateway, "Programmed", "Programmed"));
  gateway = Get(kGateway);
  gateway["spec"]["addresses"] = {{{"type", "IPAddress"}, {"value", "10.0.0.1"}}};
  Put(gateway);
  ASSERT_TRUE(Is(kGateway, "Accepted", "UnsupportedAddress"));
  EXPECT_EQ(Condition(kGateway, "Programmed")["status"], "True");
  EXPECT_FALSE(Get(kDeployment).is_null());
}

// The control plane's own objects carry the same mark, and a Gateway may have their name.
TEST_F(GatewayTest, WhatIsPartOfQanatButNoWaypointIsNotTouched) {
  PutYaml(
      "{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: shop, labels: "
      "{app.kubernetes.io/part-of: qanat}}, spec: {clusterIP: 10.96.0.8, ports: [{port: 80}]}}");
  const json before = Get(kService);
  PutGateway();
  Lead();
  ASSERT_TRUE(Is(kGateway, "Programmed", "NameTaken"));
  PutGateway("other", 2);
  ExpectQuiet();
  EXPECT_EQ(Get(kService)["spec"], before["spec"]);
  EXPECT_FALSE(Get(kService)["metadata"].contains("ownerReferences"));
}

TEST_F(GatewayTest, AUsersClassThatNamesUsIsAnswered) {
  PutYaml(R"(
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: a}, spec: {controllerName: qanat.io/mesh-controller}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: b}, spec: {controllerName: qanat.io/mesh-controller, parametersRef: {group: "", kind: ConfigMap, name: x}}}
)");
  PutGateway("b");
  Lead();
  const std::string classes = "/apis/gateway.networking.k8s.io/v1/gatewayclasses/";
  ASSERT_TRUE(Is(classes + "a", "Accepted", "Accepted"));
  ASSERT_TRUE(Is(classes + "b", "Accepted", "InvalidParameters"));
  ASSERT_TRUE(Is(kGateway, "Accepted", "InvalidParameters"));
  EXPECT_TRUE(Get(kDeployment).is_null());
}

TEST_F(GatewayTest, AnotherMeshsClassIsLeftAlone) {
  PutYaml(
      "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: "
      "istio-waypoint}, spec: {controllerName: istio.io/mesh-controller}}");
  PutGateway("istio-waypoint");
  Lead();
  ASSERT_TRUE(Until([&] {
    return !server.Get("/apis/gateway.networking.k8s.io/v1/gatewayclasses/qanat-waypoint").empty();
  }));
  ASSERT_TRUE(Is("/apis/gateway.networking.k8s.io/v1/gatewayclasses/qanat-waypoint", "Accepted",
                 "Accepted"));
  For(milliseconds(300));
  EXPECT_TRUE(Get(kDeployment).is_null());
  const json theirs = Get("/apis/gateway.networking.k8s.io/v1/gatewayclasses/istio-waypoint");
  EXPECT_FALSE(theirs.contains("status"));
  ASSERT_FALSE(duties_->issues().empty());
  EXPECT_THAT(duties_->issues()[0].message, HasSubstr("made by another mesh"));
}

TEST_F(GatewayTest, WithoutPermissionTheRestIsWrittenAllTheSame) {
  server.AddFault({"PATCH", "/deployments/", -1, 403, "", "Forbidden", "no deployments"});
  PutGateway();
  Lead();
  ASSERT_TRUE(Until([&] { return !Get(kService).is_null() && !Get(kRootOf).is_null(); }));
  ASSERT_TRUE(Until([&] { return server.CountRequests("PATCH", "/deployments/") >= 2; }))
      << "tried again";
  EXPECT_LE(server.CountRequests("PATCH", "/deployments/"), 3u) << "with growing delay";
  server.ClearFaults();
  ASSERT_TRUE(Until([&] { return !Get(kDeployment).is_null(); }));
}

}  // namespace
}  // namespace qanat::controlplane
