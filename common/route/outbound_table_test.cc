// SPDX-License-Identifier: Apache-2.0
// The outbound decision, case by case: each row changes the small mesh in its own way.
#include <gmock/gmock.h>

#include "common/route/mesh_for_test.h"
#include "common/route/outbound.h"

namespace qanat::route {
namespace {

namespace wire = istio::workload;
using model::Reason;
using Kind = Route::Kind;
using testing::ElementsAre;
using testing::HasSubstr;

// frontend (source, dual stack) on n1; backend-1 and backend-2 on n2 and n3, dual stack, behind
// service backend 10.96.0.10; the waypoint 10.91.2.9 with its service 10.96.0.20.
class World {
 public:
  World() {
    frontend = TestMesh::MakePod("frontend", "10.91.1.5");
    frontend.add_addresses(IpBytes("fd91:1::5"));
    service = TestMesh::MakeService("backend", "10.96.0.10");
    service.add_addresses()->set_address(IpBytes("fd96::10"));
    one = Backend("backend-1", "10.91.2.7", "fd91:2::7", "n2");
    two = Backend("backend-2", "10.91.3.7", "fd91:3::7", "n3");
    waypoint_service = TestMesh::MakeService("waypoint", "10.96.0.20");
    waypoint_service.clear_ports();
    TestMesh::AddPort(*waypoint_service.add_ports(), 15008, 15008);
    waypoint = TestMesh::MakePod("waypoint", "10.91.2.9", "n2");
    TestMesh::Join(waypoint, waypoint_service);
  }
  TestMesh::Workload Backend(const char* name, const char* ip, const char* ip6, const char* node) {
    auto pod = TestMesh::MakePod(name, ip, node);
    pod.add_addresses(IpBytes(ip6));
    TestMesh::Join(pod, service);
    return pod;
  }
  Route Decide(const std::string& to) {
    mesh.Put(frontend).Put(service).Put(one).Put(two).Put(waypoint_service).Put(waypoint);
    const auto snapshot = mesh.Snapshot();
    return DecideOutbound(
        *snapshot, *snapshot->WorkloadByUid(frontend.uid()), At(to), [this] { return random++; },
        options);
  }

  TestMesh mesh;
  TestMesh::Workload frontend, one, two, waypoint;
  TestMesh::Service service, waypoint_service;
  OutboundOptions options;
  uint64_t random = 1;
};

struct Row {
  const char* name;
  void (*change)(World&);
  const char* destination;
  Kind kind;
  const char* to;
  const char* authority;  // "" where there is none
  Reason reason = Reason::kNone;
};

void Only(World& w, TestMesh::Workload& other) {
  other.clear_services();
  (void)w;
}
void OnlyOne(World& w) { Only(w, w.two); }

const Row kRows[] = {
    // ---- services
    {"service to target port", OnlyOne, "10.96.0.10:80", Kind::kHbone, "10.91.2.7:15008",
     "10.91.2.7:8080"},
    {"the endpoint's own port map wins",
     [](World& w) {
       OnlyOne(w);
       (*w.one.mutable_services())["shop/backend.shop.svc.cluster.local"]
           .mutable_ports(0)
           ->set_target_port(9090);
     },
     "10.96.0.10:80", Kind::kHbone, "10.91.2.7:15008", "10.91.2.7:9090"},
    {"a named target port is known to the endpoint only",
     [](World& w) {
       OnlyOne(w);
       w.service.mutable_ports(0)->set_target_port(0);
     },
     "10.96.0.10:80", Kind::kHbone, "10.91.2.7:15008", "10.91.2.7:8080"},
    {"a port that nobody serves", OnlyOne, "10.96.0.10:81", Kind::kRefuse, "", "",
     Reason::kNoSuchPort},
    {"a waypoint's pod behind a PROXY tunnel serves every port",
     [](World& w) {
       OnlyOne(w);
       w.one.mutable_application_tunnel()->set_protocol(wire::ApplicationTunnel::PROXY);
       w.one.mutable_application_tunnel()->set_port(15088);
     },
     "10.96.0.10:81", Kind::kHbone, "10.91.2.7:15008", "10.91.2.7:81"},
    {"an endpoint outside the mesh",
     [](World& w) {
       OnlyOne(w);
       w.one.set_tunnel_protocol(wire::NONE);
     },
     "10.96.0.10:80", Kind::kTcp, "10.91.2.7:8080", ""},
    {"no endpoint: refused, not passed",
     [](World& w) {
       w.one.clear_services();
       w.two.clear_services();
     },
     "10.96.0.10:80", Kind::kRefuse, "", "", Reason::kNoHealthyUpstream},
    {"none healthy",
     [](World& w) {
       OnlyOne(w);
       w.one.set_status(wire::UNHEALTHY);
     },
     "10.96.0.10:80", Kind::kRefuse, "", "", Reason::kNoHealthyUpstream},
    {"... unless the service allows it",
     [](World& w) {
       OnlyOne(w);
       w.one.set_status(wire::UNHEALTHY);
       w.service.mutable_load_balancing()->set_health_policy(wire::LoadBalancing::ALLOW_ALL);
     },
     "10.96.0.10:80", Kind::kHbone, "10.91.2.7:15008", "10.91.2.7:8080"},
    {"a subset is unhealthy: the rest", [](World& w) { w.one.set_status(wire::UNHEALTHY); },
     "10.96.0.10:80", Kind::kHbone, "10.91.3.7:15008", "10.91.3.7:8080"},
    {"capacity 0 is never picked", [](World& w) { w.one.mutable_capacity()->set_value(0); },
     "10.96.0.10:80", Kind::kHbone, "10.91.3.7:15008", "10.91.3.7:8080"},
    {"the first try failed: the other one", [](World& w) { w.options.avoid.tried = {w.one.uid()}; },
     "10.96.0.10:80", Kind::kHbone, "10.91.3.7:15008", "10.91.3.7:8080"},
    {"all have been tried", [](World& w) { w.options.avoid.tried = {w.one.uid(), w.two.uid()}; },
     "10.96.0.10:80", Kind::kRefuse, "", "", Reason::kNoHealthyUpstream},
    // ---- locality
    {"the same node only",
     [](World& w) {
       w.service.mutable_load_balancing()->set_mode(wire::LoadBalancing::STRICT);
       w.service.mutable_load_balancing()->add_routing_preference(wire::LoadBalancing::NODE);
       w.two.set_node("n1");
     },
     "10.96.0.10:80", Kind::kHbone, "10.91.3.7:15008", "10.91.3.7:8080"},
    {"... where there is none",
     [](World& w) {
       w.service.mutable_load_balancing()->set_mode(wire::LoadBalancing::STRICT);
       w.service.mutable_load_balancing()->add_routing_preference(wire::LoadBalancing::NODE);
     },
     "10.96.0.10:80", Kind::kRefuse, "", "", Reason::kNoHealthyUpstream},
    {"failover takes the nearest",
     [](World& w) {
       w.service.mutable_load_balancing()->set_mode(wire::LoadBalancing::FAILOVER);
       w.service.mutable_load_balancing()->add_routing_preference(wire::LoadBalancing::REGION);
       w.frontend.mutable_locality()->set_region("eu");
       w.two.mutable_locality()->set_region("eu");
     },
     "10.96.0.10:80", Kind::kHbone, "10.91.3.7:15008", "10.91.3.7:8080"},
    {"... and the far one when that is not ready",
     [](World& w) {
       w.service.mutable_load_balancing()->set_mode(wire::LoadBalancing::FAILOVER);
       w.service.mutable_load_balancing()->add_routing_preference(wire::LoadBalancing::REGION);
       w.frontend.mutable_locality()->set_region("eu");
       w.two.mutable_locality()->set_region("eu");
       w.two.set_status(wire::UNHEALTHY);
     },
     "10.96.0.10:80", Kind::kHbone, "10.91.2.7:15008", "10.91.2.7:8080"},
    // ---- families
    {"the family that was asked for", OnlyOne, "[fd96::10]:80", Kind::kHbone, "[fd91:2::7]:15008",
     "[fd91:2::7]:8080"},
    {"an IPv4-only service asked for by IPv6 stays IPv4",
     [](World& w) {
       OnlyOne(w);
       w.service.set_ip_families(wire::IPV4_ONLY);
     },
     "[fd96::10]:80", Kind::kHbone, "10.91.2.7:15008", "10.91.2.7:8080"},
    {"an IPv6-only service asked for by IPv4",
     [](World& w) {
       OnlyOne(w);
       w.service.set_ip_families(wire::IPV6_ONLY);
     },
     "10.96.0.10:80", Kind::kHbone, "[fd91:2::7]:15008", "[fd91:2::7]:8080"},
    {"an endpoint that has the other family only",
     [](World& w) {
       OnlyOne(w);
       w.one.clear_addresses();
       w.one.add_addresses(IpBytes("fd91:2::7"));
     },
     "10.96.0.10:80", Kind::kHbone, "[fd91:2::7]:15008", "[fd91:2::7]:8080"},
    // ---- pods
    {"a pod address keeps its port", nullptr, "10.91.2.7:9999", Kind::kHbone, "10.91.2.7:15008",
     "10.91.2.7:9999"},
    {"its other address", nullptr, "[fd91:2::7]:9999", Kind::kHbone, "[fd91:2::7]:15008",
     "[fd91:2::7]:9999"},
    {"headless: its name gives pods, the service's waypoint does not apply",
     [](World& w) {
       w.service.clear_addresses();
       *w.service.mutable_waypoint() = TestMesh::GatewayOf(w.waypoint_service);
     },
     "10.91.2.7:8080", Kind::kHbone, "10.91.2.7:15008", "10.91.2.7:8080"},
    {"headless: the workload's waypoint does",
     [](World& w) {
       w.service.clear_addresses();
       *w.one.mutable_waypoint() = TestMesh::GatewayOf(w.waypoint_service);
     },
     "10.91.2.7:8080", Kind::kHbone, "10.91.2.9:15008", "10.91.2.7:8080"},
    {"a pod on its node's network is not found by address",
     [](World& w) { w.one.set_network_mode(wire::HOST_NETWORK); }, "10.91.2.7:9999",
     Kind::kPassthrough, "10.91.2.7:9999", ""},
    {"... but as an endpoint of its service",
     [](World& w) {
       OnlyOne(w);
       w.one.set_network_mode(wire::HOST_NETWORK);
       w.one.set_tunnel_protocol(wire::NONE);
     },
     "10.96.0.10:80", Kind::kTcp, "10.91.2.7:8080", ""},
    {"two workloads on one address: the pod before an entry",
     [](World& w) {
       auto entry = TestMesh::MakePod("entry", "10.91.2.7");
       entry.set_uid("Kubernetes/networking.istio.io/WorkloadEntry/shop/entry");
       entry.set_tunnel_protocol(wire::NONE);
       w.mesh.Put(entry);
     },
     "10.91.2.7:80", Kind::kHbone, "10.91.2.7:15008", "10.91.2.7:80"},
    // ---- waypoints
    {"a waypoint by host name",
     [](World& w) { *w.service.mutable_waypoint() = TestMesh::GatewayOf(w.waypoint_service); },
     "10.96.0.10:80", Kind::kHbone, "10.91.2.9:15008", "10.96.0.10:80"},
    {"a waypoint by its service's address",
     [](World& w) {
       w.service.mutable_waypoint()->mutable_address()->set_address(IpBytes("10.96.0.20"));
     },
     "10.96.0.10:80", Kind::kHbone, "10.91.2.9:15008", "10.96.0.10:80"},
    {"a waypoint by its pod's address and a port of its own",
     [](World& w) {
       w.service.mutable_waypoint()->mutable_address()->set_address(IpBytes("10.91.2.9"));
       w.service.mutable_waypoint()->set_hbone_mtls_port(15018);
     },
     "10.96.0.10:80", Kind::kHbone, "10.91.2.9:15018", "10.96.0.10:80"},
    {"a waypoint nobody knows: refused, not gone around",
     [](World& w) {
       w.service.mutable_waypoint()->mutable_hostname()->set_namespace_("shop");
       w.service.mutable_waypoint()->mutable_hostname()->set_hostname("gone.svc");
     },
     "10.96.0.10:80", Kind::kRefuse, "", "", Reason::kWaypointUnavailable},
    {"a waypoint whose only pod has been tried",
     [](World& w) {
       *w.service.mutable_waypoint() = TestMesh::GatewayOf(w.waypoint_service);
       w.options.avoid.tried = {w.waypoint.uid()};
     },
     "10.96.0.10:80", Kind::kRefuse, "", "", Reason::kWaypointUnavailable},
    {"the waypoint's own identity elsewhere is no waypoint",
     [](World& w) {
       *w.service.mutable_waypoint() = TestMesh::GatewayOf(w.waypoint_service);
       w.frontend.set_service_account("waypoint");
     },
     "10.96.0.10:80", Kind::kHbone, "10.91.2.9:15008", "10.96.0.10:80"},
    {"who is an endpoint of the waypoint's service goes direct",
     [](World& w) {
       OnlyOne(w);
       *w.service.mutable_waypoint() = TestMesh::GatewayOf(w.waypoint_service);
       TestMesh::Join(w.frontend, w.waypoint_service);
     },
     "10.96.0.10:80", Kind::kHbone, "10.91.2.7:15008", "10.91.2.7:8080"},
    // ---- ServiceEntry
    {"resolution NONE: where it was asked for",
     [](World& w) {
       w.service.mutable_load_balancing()->set_mode(wire::LoadBalancing::PASSTHROUGH);
     },
     "10.96.0.10:80", Kind::kPassthrough, "10.96.0.10:80", ""},
    {"an address inside a ServiceEntry's block",
     [](World& w) {
       OnlyOne(w);
       auto* block = w.service.add_addresses();
       block->set_address(IpBytes("10.200.0.0"));
       block->set_length(16);
     },
     "10.200.3.4:80", Kind::kHbone, "10.91.2.7:15008", "10.91.2.7:8080"},
    {"a static endpoint outside the mesh",
     [](World& w) {
       OnlyOne(w);
       w.one.set_uid("Kubernetes/networking.istio.io/ServiceEntry/shop/e/192.0.2.7");
       w.one.set_tunnel_protocol(wire::NONE);
       w.one.clear_addresses();
       w.one.add_addresses(IpBytes("192.0.2.7"));
     },
     "10.96.0.10:80", Kind::kTcp, "192.0.2.7:8080", ""},
    {"a DNS name: dialled once it is resolved",
     [](World& w) {
       OnlyOne(w);
       w.one.clear_addresses();
       w.one.set_hostname("db.example.com");
       w.one.set_tunnel_protocol(wire::NONE);
     },
     "10.96.0.10:80", Kind::kTcp, "", ""},
    // ---- the rest
    {"nobody knows it", nullptr, "192.0.2.1:443", Kind::kPassthrough, "192.0.2.1:443", ""},
    {"an address of another network of the same number",
     [](World& w) { w.one.set_network("other"); }, "10.91.2.7:80", Kind::kPassthrough,
     "10.91.2.7:80", ""},
    {"the proxy's own ports", nullptr, "127.0.0.1:15006", Kind::kRefuse, "", "", Reason::kSelfCall},
};

TEST(OutboundTable, EachRow) {
  for (const Row& row : kRows) {
    SCOPED_TRACE(row.name);
    World world;
    if (row.change != nullptr) row.change(world);
    const Route route = world.Decide(row.destination);
    EXPECT_EQ(ToString(route.kind), ToString(row.kind)) << route.detail;
    EXPECT_EQ(ToString(route.reason), ToString(row.reason)) << route.detail;
    EXPECT_EQ(route.to.is_set() ? route.to.ToString() : "", row.to);
    EXPECT_EQ(route.authority, row.authority);
    if (route.kind == Kind::kHbone) {
      EXPECT_FALSE(route.identities.empty());
    }
    if (route.kind == Kind::kRefuse) {
      EXPECT_FALSE(route.detail.empty());
    }
  }
}

TEST(OutboundTable, AResolvedNameIsDialledAsAnAddressWouldBe) {
  World world;
  OnlyOne(world);
  world.one.clear_addresses();
  world.one.set_hostname("db.example.com");
  Route route = world.Decide("10.96.0.10:80");
  EXPECT_EQ(route.host, "db.example.com");
  EXPECT_EQ(route.picked_port, 8080);
  EXPECT_FALSE(route.to.is_set());
  route.Resolved(*net::IpAddress::Parse("192.0.2.9"), route.picked_port);
  EXPECT_EQ(route.to.ToString(), "192.0.2.9:15008");
  EXPECT_EQ(route.target.ToString(), "192.0.2.9:8080");
  EXPECT_EQ(route.authority, "192.0.2.9:8080");
  EXPECT_THAT(route.identities, ::testing::SizeIs(1));
  EXPECT_EQ(route.host, "");
}

// ---- several networks

class NetworksTest : public ::testing::Test {
 protected:
  NetworksTest() {
    w.two.clear_services();
    w.one.set_network("far");
    w.one.mutable_network_gateway()->mutable_address()->set_network("far");
    w.one.mutable_network_gateway()->mutable_address()->set_address(IpBytes("172.16.0.1"));
    w.one.mutable_network_gateway()->set_hbone_mtls_port(15008);
    gateway = TestMesh::MakePod("eastwest", "172.16.0.1", "", "gw");
    gateway.set_network("far");
    w.mesh.Put(gateway);
    w.service.add_subject_alt_names("spiffe://cluster.local/ns/shop/sa/backend");
    w.service.add_subject_alt_names("spiffe://cluster.local/ns/shop/sa/other");
  }
  World w;
  TestMesh::Workload gateway;
};

TEST_F(NetworksTest, ThroughTheGatewayByNameWithBothIdentities) {
  const Route route = w.Decide("10.96.0.10:80");
  ASSERT_EQ(route.kind, Kind::kDoubleHbone) << route.detail;
  EXPECT_EQ(route.to.ToString(), "172.16.0.1:15008");
  EXPECT_EQ(route.authority, "backend.shop.svc.cluster.local:80");
  EXPECT_THAT(route.identities, ElementsAre("spiffe://cluster.local/ns/gw/sa/eastwest"));
  EXPECT_THAT(route.inner_identities, ElementsAre("spiffe://cluster.local/ns/shop/sa/backend",
                                                  "spiffe://cluster.local/ns/shop/sa/other"));
  EXPECT_EQ(route.destination->name(), "backend-1");
  EXPECT_FALSE(route.via_waypoint);
  const PodFacts pod = TestMesh::LocalPod("backend-1", "10.91.2.7");
  EXPECT_FALSE(DecideOnePass(route, &pod).possible);
}

TEST_F(NetworksTest, AnEndpointWithoutAddressIsReachableThroughItsGateway) {
  w.one.clear_addresses();
  EXPECT_EQ(w.Decide("10.96.0.10:80").kind, Kind::kDoubleHbone);
}

TEST_F(NetworksTest, WithoutNamesInTheServiceTheEndpointsOwnIdentity) {
  w.service.clear_subject_alt_names();
  EXPECT_THAT(w.Decide("10.96.0.10:80").inner_identities,
              ElementsAre("spiffe://cluster.local/ns/shop/sa/backend-1"));
}

TEST_F(NetworksTest, GatewayByHostName) {
  auto service = TestMesh::MakeService("eastwest", "", "gw");
  gateway.clear_addresses();
  gateway.add_addresses(IpBytes("172.16.0.9"));
  TestMesh::Join(gateway, service);
  w.mesh.Put(service).Put(gateway);
  *w.one.mutable_network_gateway() = TestMesh::GatewayOf(service);
  const Route route = w.Decide("10.96.0.10:80");
  ASSERT_EQ(route.kind, Kind::kDoubleHbone) << route.detail;
  EXPECT_EQ(route.to.ToString(), "172.16.0.9:15008");
}

TEST_F(NetworksTest, WithoutAGatewayRefused) {
  w.one.clear_network_gateway();
  const Route route = w.Decide("10.96.0.10:80");
  EXPECT_EQ(route.kind, Kind::kRefuse);
  EXPECT_EQ(route.reason, Reason::kNoNetworkGateway);
}

TEST_F(NetworksTest, AGatewayThatNobodyKnowsHasNoIdentityToExpect) {
  w.mesh.Remove(gateway.uid());
  const Route route = w.Decide("10.96.0.10:80");
  EXPECT_EQ(route.reason, Reason::kNoNetworkGateway);
  EXPECT_THAT(route.detail, HasSubstr("172.16.0.1"));
}

TEST_F(NetworksTest, OurOwnNetworkFirstWhereTheServiceSaysSo) {
  TestMesh::Join(w.two, w.service);
  w.service.mutable_load_balancing()->set_mode(wire::LoadBalancing::FAILOVER);
  w.service.mutable_load_balancing()->add_routing_preference(wire::LoadBalancing::NETWORK);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(w.Decide("10.96.0.10:80").kind, Kind::kHbone);
  w.two.set_status(wire::UNHEALTHY);
  EXPECT_EQ(w.Decide("10.96.0.10:80").kind, Kind::kDoubleHbone);
  // ... and a failed try at home goes abroad.
  w.two.set_status(wire::HEALTHY);
  w.options.avoid.tried = {w.two.uid()};
  EXPECT_EQ(w.Decide("10.96.0.10:80").kind, Kind::kDoubleHbone);
}

TEST_F(NetworksTest, AWaypointInAnotherNetwork) {
  w.waypoint.set_network("far");
  *w.waypoint.mutable_network_gateway() = w.one.network_gateway();
  *w.service.mutable_waypoint() = TestMesh::GatewayOf(w.waypoint_service);
  const Route route = w.Decide("10.96.0.10:80");
  ASSERT_EQ(route.kind, Kind::kDoubleHbone) << route.detail;
  EXPECT_EQ(route.authority, "backend.shop.svc.cluster.local:80");
  EXPECT_THAT(route.inner_identities, ElementsAre("spiffe://cluster.local/ns/shop/sa/waypoint"));
  EXPECT_TRUE(route.via_waypoint);
  // A pod's address means nothing over there.
  w.two.clear_waypoint();
  *w.two.mutable_waypoint() = TestMesh::GatewayOf(w.waypoint_service);
  EXPECT_EQ(w.Decide("10.91.3.7:80").reason, Reason::kNoNetworkGateway);
}

}  // namespace
}  // namespace qanat::route
