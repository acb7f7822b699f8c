// SPDX-License-Identifier: Apache-2.0
// What the leader writes, against a fake API server, with the real source and writer.
#include "controlplane/kube/duties.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/controlplane/duties_bed.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::HasSubstr;

using DutiesTest = DutiesBed;

TEST_F(DutiesTest, TheRootIsInEveryNamespaceThatStays) {
  Lead();
  ASSERT_TRUE(Until([&] { return !Get(kRootOf).is_null(); }));
  EXPECT_EQ(Get(kRootOf)["data"]["root-cert.pem"], "ROOT\n");
  EXPECT_EQ(Get(kRootOf)["metadata"]["labels"]["istio.io/config"], "true");
  EXPECT_EQ(server.CountRequests("PATCH", "namespaces/gone/"), 0u);
  PutYaml("{apiVersion: v1, kind: Namespace, metadata: {name: later}}");
  ASSERT_TRUE(Until([&] {
    return !server.Get("/api/v1/namespaces/later/configmaps/istio-ca-root-cert").empty();
  }));
  server.Remove(kRootOf);
  ASSERT_TRUE(Until([&] { return !Get(kRootOf).is_null(); })) << "made anew";
  ExpectQuiet();
}

TEST_F(DutiesTest, AnotherMeshsRootIsLeftAlone) {
  Put({{"apiVersion", "v1"},
       {"kind", "ConfigMap"},
       {"metadata",
        {{"name", "istio-ca-root-cert"},
         {"namespace", "shop"},
         {"labels", {{"istio.io/config", "true"}}}}},
       {"data", {{"root-cert.pem", "THEIRS"}}}});
  Lead();
  ASSERT_TRUE(Until([&] { return !duties_->issues().empty(); }));
  EXPECT_THAT(duties_->issues()[0].object, HasSubstr("shop/istio-ca-root-cert"));
  EXPECT_THAT(duties_->issues()[0].remedy, HasSubstr("delete it"));
  EXPECT_EQ(Get(kRootOf)["data"]["root-cert.pem"], "THEIRS");
}

TEST_F(DutiesTest, NobodyWritesWhoDoesNotLead) {
  may_write_ = false;
  Lead();
  For(milliseconds(300));
  EXPECT_EQ(Writes(), 0u);
  may_write_ = true;
  ASSERT_TRUE(Until([&] { return Writes() > 0; }));
}

TEST_F(DutiesTest, PoliciesSayWhatBecameOfThem) {
  PutYaml(R"(
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop, generation: 2}
spec: {action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: shop, generation: 1}
spec: {hosts: [web], http: [{timeout: soon, route: [{destination: {host: web}}]}]}
)");
  Lead();
  const std::string policy = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/p";
  ASSERT_TRUE(Is(policy, "ZtunnelAccepted", "UnsupportedValue"));
  const json first = Condition(policy, "ZtunnelAccepted");
  EXPECT_EQ(first["observedGeneration"], 2);
  // An object that never was understood says so.
  const std::string route = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/v";
  ASSERT_TRUE(Is(route, "qanat.io/Understood", "Invalid"));
  EXPECT_THAT(Condition(route, "qanat.io/Understood")["message"].get<std::string>(),
              HasSubstr("timeout"));
  ASSERT_TRUE(
      Is("/api/v1/namespaces/shop/services/web", "istio.io/WaypointBound", "WaypointIsMissing"));
  ExpectQuiet();
  // Somebody undoes it: it comes back, but not in a race.
  json changed = Get(policy);
  changed["status"] = json::object();
  Put(changed);
  ASSERT_TRUE(Is(policy, "ZtunnelAccepted", "UnsupportedValue"));
  changed = Get(policy);
  changed["spec"] =
      json::parse(R"({"action":"DENY","rules":[{"from":[{"source":{"namespaces":["a"]}}]}]})");
  changed["metadata"]["generation"] = 3;
  Put(changed);
  ASSERT_TRUE(Is(policy, "ZtunnelAccepted", "Accepted"));
  EXPECT_EQ(Condition(policy, "ZtunnelAccepted")["observedGeneration"], 3);
}

TEST_F(DutiesTest, AServiceEntrySaysWhyItIsNotUnderstoodAsLongAsItIsNot) {
  const std::string path = "/apis/networking.istio.io/v1/namespaces/shop/serviceentries/";
  PutYaml(R"(
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bad, namespace: shop, generation: 1}
spec: {hosts: [far.example], resolution: STATIC, endpoints: [{address: 10.9.9.9, weight: 2000000}]}
status: {addresses: [{value: 240.240.0.1, host: far.example}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: others, namespace: shop, generation: 1}
spec: {hosts: [good.example], resolution: STATIC, endpoints: [{address: 10.9.9.8}]}
status: {conditions: [{type: istio.io/WaypointBound, status: "True", reason: A, message: theirs}]}
)");
  Lead();
  ASSERT_TRUE(Is(path + "bad", "qanat.io/Understood", "Invalid"));
  EXPECT_THAT(Condition(path + "bad", "qanat.io/Understood")["message"].get<std::string>(),
              HasSubstr("weight"));
  EXPECT_EQ(Get(path + "bad")["status"]["addresses"][0]["value"], "240.240.0.1");
  ExpectQuiet();
  json mended = Get(path + "bad");
  mended["spec"]["endpoints"][0]["weight"] = 2;
  mended["metadata"]["generation"] = 2;
  Put(mended);
  ASSERT_TRUE(Until([&] { return Condition(path + "bad", "qanat.io/Understood").is_null(); }));
  EXPECT_EQ(Get(path + "bad")["status"]["addresses"][0]["value"], "240.240.0.1");
  EXPECT_EQ(server.CountRequests("PATCH", "serviceentries/others"), 0u);
  ExpectQuiet();
}

TEST_F(DutiesTest, RoutesKeepWhatOtherControllersSay) {
  PutYaml(R"(
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop, generation: 1}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}, {name: ingress}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
status:
  parents: [{parentRef: {name: ingress}, controllerName: example.com/x, conditions: [{type: Accepted, status: "True"}]}]
)");
  Lead();
  const std::string path = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r";
  ASSERT_TRUE(Until([&] { return Get(path)["status"]["parents"].size() == 2; }));
  const json parents = Get(path)["status"]["parents"];
  EXPECT_EQ(parents[0]["controllerName"], "example.com/x");
  EXPECT_EQ(parents[1]["controllerName"], "qanat.io/mesh-controller");
  EXPECT_EQ(parents[1]["parentRef"]["name"], "web");
  EXPECT_EQ(parents[1]["parentRef"]["port"], 80);
  EXPECT_EQ(parents[1]["conditions"][0]["reason"], "NoWaypoint");
  EXPECT_EQ(parents[1]["conditions"][1]["type"], "ResolvedRefs");
  ExpectQuiet();
}

}  // namespace
}  // namespace qanat::controlplane
