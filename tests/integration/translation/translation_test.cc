// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "controlplane/envoy/test_world.h"
#include "controlplane/envoy/translate.h"
#include "envoy/service/discovery/v3/discovery.pb.h"
#include "waypoint/config/effective.h"
#include "waypoint/config/store.h"

namespace qanat {
namespace {

using controlplane::WaypointKey;
using controlplane::World;
using waypoint::ConfigStore;

// A store that was told everything, as by a delta stream: what routes and endpoints it then asks
// for must be among what there is.
class Told {
 public:
  // `but`: what our waypoint says that it cannot do yet.
  Told(const World& world, const WaypointKey& key, const std::string& but = "")
      : store_({.want = [](ConfigStore::Type, const std::set<std::string>&) {},
                .publish = [this](waypoint::SnapshotPtr next) { snapshot_ = std::move(next); }}) {
    const controlplane::WaypointConfig config = controlplane::BuildWaypoint(world, key);
    const std::pair<std::string_view, ConfigStore::Type> types[] = {
        {controlplane::kClusterType, ConfigStore::Type::kCluster},
        {controlplane::kEndpointType, ConfigStore::Type::kEndpoint},
        {controlplane::kListenerType, ConfigStore::Type::kListener},
        {controlplane::kRouteType, ConfigStore::Type::kRoute}};
    for (const auto& [url, type] : types) {
      for (const auto& [name, resource] : config.resources.at(std::string(url))) {
        envoy::service::discovery::v3::Resource wrapper;
        EXPECT_TRUE(wrapper.ParseFromString(*resource.wire));
        // Errors are looked at below, as problems.
        (void)store_.Apply(type, name, resource.version, wrapper.resource().value());
      }
      store_.BatchEnd(type);
    }
    for (const ConfigStore::Problem& problem : store_.problems()) {
      const std::string text = problem.type + " " + problem.name + ": " + problem.message;
      if (but.empty() || text.find(but) == std::string::npos) ADD_FAILURE() << text;
    }
    EXPECT_EQ(store_.problems().empty(), but.empty());
    EXPECT_TRUE(store_.complete()) << "a listener or cluster names something that was not sent";
  }

  const waypoint::ConfigSnapshot& snapshot() const { return *snapshot_; }

  // What becomes of a request: "deny", or the name of the route.
  std::string Ask(const std::string& authority, const std::string& identity,
                  const std::string& method, const std::string& path,
                  const std::vector<std::pair<std::string, std::string>>& said = {}) const {
    http::HeaderList headers;
    for (const auto& [name, value] : said) headers.Add(name, value);
    const waypoint::ChainPtr chain = snapshot_->FindChain(authority);
    if (!chain || !chain->http) return "no chain";
    waypoint::HeadView head;
    head.method = method;
    head.path = path;
    head.scheme = "http";
    head.authority = "backend";
    head.headers = &headers;
    const auto routes = snapshot_->RoutesOf(*chain->http);
    const waypoint::Effective effective = waypoint::Resolve(*chain->http, routes.get(), head, 7);
    waypoint::AuthzInput input;
    input.identity = identity;
    input.source_ip = input.remote_ip = *net::IpAddress::Parse("10.91.1.8");
    input.head = &head;
    if (!waypoint::Evaluate(effective.rbac, input).allowed) return "deny";
    return effective.choice.route ? effective.choice.route->name : "no route";
  }

 private:
  ConfigStore store_;
  waypoint::SnapshotPtr snapshot_;
};

std::string Account(const std::string& name, const std::string& ns = "shop") {
  return "spiffe://cluster.local/ns/" + ns + "/sa/" + name;
}

TEST(Translation, EveryGoldenWorldIsUnderstood) {
  const char* mirror = "route.request_mirror_policies";
  const std::pair<const char*, const char*> worlds[] = {
      {"policies", ""}, {"virtual-service", mirror}, {"http-route", mirror}, {"traffic", ""}};
  for (const auto& [name, but] : worlds) {
    SCOPED_TRACE(name);
    const Told told(*controlplane::SmallWorld(name), {"app", "waypoint"}, but);
    EXPECT_TRUE(told.snapshot().FindChain("10.96.0.1:80"));
    EXPECT_TRUE(told.snapshot().FindChain("[fd96::1]:80"));
    EXPECT_TRUE(told.snapshot().FindChain("web.app.svc.cluster.local:80"));
    EXPECT_FALSE(told.snapshot().FindChain("10.96.0.1:81"));
    EXPECT_FALSE(told.snapshot().FindChain("10.96.9.1:80"));
  }
}

TEST(Translation, ARouteThatIsNotServedKeepsNoPolicyFromTakingEffect) {
  const std::string policy = R"(
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: app}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: DENY
  rules: [{to: [{operation: {paths: ["/secret*"]}}]}]
)";
  const auto world = controlplane::WorldOfText(
      {controlplane::ReadTree("controlplane/envoy/testdata/base.yaml"),
       controlplane::ReadTree("controlplane/envoy/testdata/http-route.yaml"), policy});
  const Told told(*world, {"app", "waypoint"}, "route.request_mirror_policies");
  EXPECT_EQ(told.Ask("10.96.0.1:80", Account("x", "a"), "GET", "/secret"), "deny");
  EXPECT_EQ(told.Ask("10.96.0.1:80", Account("x", "a"), "GET", "/open"), "general.0");
}

// Not there yet in our waypoint: it must say so by name, not serve the cluster some other way.
TEST(Translation, ConsistentHashingIsRefusedByName) {
  ConfigStore store({.want = [](ConfigStore::Type, const std::set<std::string>&) {},
                     .publish = [](waypoint::SnapshotPtr) {}});
  const auto config = controlplane::BuildWaypoint(*controlplane::SmallWorld("consistent-hash"),
                                                  {"app", "waypoint"});
  const std::string name = "inbound-vip|80|http|web.app.svc.cluster.local";
  envoy::service::discovery::v3::Resource wrapper;
  ASSERT_TRUE(wrapper.ParseFromString(
      *config.resources.at(std::string(controlplane::kClusterType)).at(name).wire));
  const Status applied =
      store.Apply(ConfigStore::Type::kCluster, name, "1", wrapper.resource().value());
  ASSERT_FALSE(applied);
  EXPECT_NE(applied.error().message.find("consistent hashing"), std::string::npos);
}

TEST(Translation, AWaypointWithoutServicesRefusesEverything) {
  const Told told(*controlplane::WorldOf({"controlplane/envoy/testdata/empty.yaml"}),
                  {"app", "waypoint"});
  for (const char* authority : {"10.96.0.1:80", "10.96.0.1:0", "x:80", "none", ""}) {
    EXPECT_FALSE(told.snapshot().FindChain(authority)) << authority;
  }
}

TEST(Translation, TheShopsPromises) {
  const Told told(*controlplane::ShopWorld(), {"shop", "waypoint"});
  const std::string vip = "10.96.0.11:80";
  const auto frontend = Account("frontend");
  EXPECT_EQ(told.Ask(vip, frontend, "GET", "/api/orders"), "everybody");
  EXPECT_EQ(told.Ask(vip, frontend, "GET", "/api/orders", {{"canary", "true"}}), "testers");
  EXPECT_EQ(told.Ask(vip, frontend, "GET", "/api/orders", {{"user", "jason"}}), "testers");
  EXPECT_EQ(told.Ask(vip, frontend, "POST", "/api/slow?x"), "slow");
  EXPECT_EQ(told.Ask(vip, frontend, "DELETE", "/api/orders"), "deny");
  EXPECT_EQ(told.Ask(vip, frontend, "GET", "/admin"), "deny");
  EXPECT_EQ(told.Ask(vip, frontend, "GET", "/metrics"), "deny");
  EXPECT_EQ(told.Ask(vip, Account("loadgen"), "GET", "/api/orders"), "deny");
  EXPECT_EQ(told.Ask(vip, "", "GET", "/api/orders"), "deny");
  EXPECT_EQ(told.Ask(vip, Account("scraper", "monitoring"), "GET", "/metrics"), "everybody");
  EXPECT_EQ(told.Ask("backend.shop.svc.cluster.local:80", frontend, "GET", "/api/x"), "everybody");
  EXPECT_EQ(told.Ask("10.96.0.12:80", frontend, "GET", "/api/x"), "no chain");
}

// The YAML that users bring along, as it stands, for services behind a waypoint.
TEST(Translation, UsersShapesTakeEffect) {
  std::string services = R"(
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: default}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: IPAddress, value: 10.96.9.9}]}
)";
  for (const char* name : {"reviews", "ratings", "httpbin", "dx03-backend"}) {
    services += std::string("---\napiVersion: v1\nkind: Service\nmetadata: {name: ") + name +
                ", namespace: default, labels: {istio.io/use-waypoint: waypoint}}\n"
                "spec: {ports: [{name: http, port: 80}]}\n";
  }
  const auto world = controlplane::WorldOfText(
      {services, controlplane::ReadTree("controlplane/testdata/user_shapes.yaml")});
  const Told told(*world, {"default", "waypoint"}, "consistent hashing");
  const auto ask = [&](const std::string& name, const std::string& header) {
    return told.Ask(name + ".default.svc.cluster.local:80", Account("x"), "GET", "/",
                    {{header, header == "user" ? "jason" : "true"}});
  };
  EXPECT_EQ(ask("reviews", "user"), "http[0]");
  EXPECT_EQ(ask("reviews", "other"), "http[1]");
  EXPECT_EQ(ask("ratings", "other"), "http[0]");
  EXPECT_EQ(ask("httpbin", "other"), "default");
  EXPECT_EQ(ask("dx03-backend", "canary"), "http[0]");
  EXPECT_EQ(ask("dx03-backend", "other"), "http[1]");
  const auto cluster =
      told.snapshot().FindCluster("inbound-vip|80|http|httpbin.default.svc.cluster.local");
  ASSERT_TRUE(cluster);
  EXPECT_TRUE(cluster->outlier) << "circuit breaking of the httpbin rule";
}

TEST(Translation, PoliciesThatCannotBeUnderstoodRefuse) {
  const Told told(*controlplane::SmallWorld("policies"), {"app", "waypoint"});
  const std::string vip = "10.96.0.1:80";
  // ALLOW rules let this one in ...
  EXPECT_EQ(told.Ask(vip, Account("x", "a"), "GET", "/anything"), "default");
  // ... and DENY rules, understood or not, refuse these.
  EXPECT_EQ(told.Ask(vip, Account("x", "a"), "GET", "/admin"), "deny");
  EXPECT_EQ(told.Ask(vip, Account("x", "a"), "DELETE", "/anything"), "deny");
  EXPECT_EQ(told.Ask(vip, Account("x", "a"), "GET", "/x"), "deny");
  EXPECT_EQ(told.Ask(vip, Account("x", "a"), "GET", "/opa"), "deny");
  EXPECT_EQ(told.Ask(vip, Account("x", "a"), "GET", "/anything", {{"authorization", "bearer abc"}}),
            "deny");
  EXPECT_EQ(told.Ask(vip, Account("x", "a"), "GET", "/anything?a=b&tok=1"), "deny");
}

TEST(Translation, EndpointsSayHowToReachThemAndWhoTheyAre) {
  const Told told(*controlplane::SmallWorld("traffic"), {"app", "waypoint"});
  const auto cluster =
      told.snapshot().FindCluster("inbound-vip|9000|tcp|mixed.app.svc.cluster.local");
  ASSERT_TRUE(cluster);
  const auto endpoints = told.snapshot().EndpointsOf(*cluster);
  ASSERT_TRUE(endpoints);
  ASSERT_EQ(endpoints->endpoints.size(), 2U);
  for (const waypoint::Endpoint& endpoint : endpoints->endpoints) {
    if (endpoint.hbone) {
      EXPECT_EQ(endpoint.address.ToString(), "10.91.1.2:9000");
      EXPECT_EQ(endpoint.tunnel.ToString(), "10.91.1.2:15008");
      EXPECT_EQ(endpoint.identity, Account("mixed", "app"));
      EXPECT_EQ(endpoint.labels.canonical_name, "mix");
    } else {
      EXPECT_EQ(endpoint.address.ToString(), "[fd91:2::2]:9000");
    }
  }
}

}  // namespace
}  // namespace qanat
