// SPDX-License-Identifier: Apache-2.0
#include "common/route/outbound.h"

#include <gmock/gmock.h>

#include "common/route/mesh_for_test.h"

namespace qanat::route {
namespace {

using model::Reason;
using Kind = Route::Kind;
using testing::ElementsAre;

// shop: frontend (source, node n1), backend-1 (n2) behind service backend, plain (no HBONE), a
// waypoint with its service, `reviews` service that has the waypoint, headless `db`, pods
// elsewhere.
class OutboundTest : public ::testing::Test {
 protected:
  OutboundTest() {
    frontend = TestMesh::MakePod("frontend", "10.91.1.5");
    frontend.add_addresses(IpBytes("fd91:1::5"));
    backend_service = TestMesh::MakeService("backend", "10.96.0.10");
    backend_service.add_addresses()->set_address(IpBytes("fd96::10"));
    backend = TestMesh::MakePod("backend-1", "10.91.2.7", "n2");
    backend.add_addresses(IpBytes("fd91:2::7"));
    TestMesh::Join(backend, backend_service);
    plain = TestMesh::MakePod("plain", "10.91.2.8", "n2");
    plain.set_tunnel_protocol(istio::workload::NONE);
    waypoint_service = TestMesh::MakeService("waypoint", "10.96.0.20");
    waypoint_service.clear_ports();
    TestMesh::AddPort(*waypoint_service.add_ports(), 15008, 15008);
    waypoint_service.add_subject_alt_names("spiffe://cluster.local/ns/shop/sa/extra");
    waypoint = TestMesh::MakePod("waypoint", "10.91.2.9", "n2");
    TestMesh::Join(waypoint, waypoint_service);
    reviews_service = TestMesh::MakeService("reviews", "10.96.0.30");
    *reviews_service.mutable_waypoint() = TestMesh::GatewayOf(waypoint_service);
    reviews = TestMesh::MakePod("reviews-1", "10.91.2.10", "n2");
    TestMesh::Join(reviews, reviews_service);
    mesh.Put(frontend).Put(backend_service).Put(backend).Put(plain);
    mesh.Put(waypoint_service).Put(waypoint).Put(reviews_service).Put(reviews);
  }

  Route Decide(const std::string& to, const std::string& from = "frontend",
               const OutboundOptions& options = {}) {
    const auto snapshot = mesh.Snapshot();
    const auto source = snapshot->WorkloadByUid("Kubernetes//Pod/shop/" + from);
    return DecideOutbound(*snapshot, *source, At(to), [this] { return random++; }, options);
  }

  TestMesh mesh;
  TestMesh::Workload frontend, backend, plain, waypoint, reviews;
  TestMesh::Service backend_service, waypoint_service, reviews_service;
  uint64_t random = 0;
};

struct Case {
  const char* name;
  const char* destination;
  Kind kind;
  const char* to;
  const char* authority;
  Reason reason;
};

TEST_F(OutboundTest, Table) {
  const Case cases[] = {
      {"a service goes to its endpoint's target port", "10.96.0.10:80", Kind::kHbone,
       "10.91.2.7:15008", "10.91.2.7:8080", Reason::kNone},
      {"... of the family that was asked for", "[fd96::10]:80", Kind::kHbone, "[fd91:2::7]:15008",
       "[fd91:2::7]:8080", Reason::kNone},
      {"a pod address keeps its port", "10.91.2.7:9999", Kind::kHbone, "10.91.2.7:15008",
       "10.91.2.7:9999", Reason::kNone},
      {"a pod outside the mesh is dialled plainly", "10.91.2.8:80", Kind::kTcp, "10.91.2.8:80", "",
       Reason::kNone},
      {"an address that nobody knows passes", "192.0.2.1:443", Kind::kPassthrough, "192.0.2.1:443",
       "", Reason::kNone},
      {"a service with a waypoint: the authority stays the service's address", "10.96.0.30:80",
       Kind::kHbone, "10.91.2.9:15008", "10.96.0.30:80", Reason::kNone},
      {"its pod, addressed directly, has no waypoint", "10.91.2.10:80", Kind::kHbone,
       "10.91.2.10:15008", "10.91.2.10:80", Reason::kNone},
      {"a port that the service does not have", "10.96.0.10:81", Kind::kRefuse, "", "",
       Reason::kNoSuchPort},
      {"the proxy's own port on loopback", "127.0.0.1:15001", Kind::kRefuse, "", "",
       Reason::kSelfCall},
      {"... and on the other loopback", "[::1]:15008", Kind::kRefuse, "", "", Reason::kSelfCall},
      {"loopback otherwise passes", "127.0.0.1:8080", Kind::kPassthrough, "127.0.0.1:8080", "",
       Reason::kNone},
      {"oneself", "10.91.1.5:80", Kind::kHbone, "10.91.1.5:15008", "10.91.1.5:80", Reason::kNone},
  };
  for (const Case& c : cases) {
    const Route route = Decide(c.destination);
    EXPECT_EQ(route.kind, c.kind) << c.name << ": " << route.detail;
    EXPECT_EQ(route.reason, c.reason) << c.name;
    EXPECT_EQ(route.to.is_set() ? route.to.ToString() : "", c.to) << c.name;
    EXPECT_EQ(route.authority, c.authority) << c.name;
  }
}

TEST_F(OutboundTest, TheSocksPortIsTheProxysWhereItIsOn) {
  OutboundOptions options;
  EXPECT_EQ(Decide("127.0.0.1:15080", "frontend", options).kind, Kind::kPassthrough);
  options.socks = true;
  EXPECT_EQ(Decide("127.0.0.1:15080", "frontend", options).reason, Reason::kSelfCall);
  EXPECT_EQ(Decide("10.91.2.7:15080", "frontend", options).kind, Kind::kHbone);
}

TEST_F(OutboundTest, ExpectedIdentities) {
  EXPECT_THAT(Decide("10.96.0.10:80").identities,
              ElementsAre("spiffe://cluster.local/ns/shop/sa/backend-1"));
  const Route via = Decide("10.96.0.30:80");
  EXPECT_TRUE(via.via_waypoint);
  EXPECT_THAT(via.identities, ElementsAre("spiffe://cluster.local/ns/shop/sa/extra",
                                          "spiffe://cluster.local/ns/shop/sa/waypoint"));
  EXPECT_EQ(via.service->name, "reviews");
  EXPECT_EQ(via.destination->name(), "waypoint");
}

TEST_F(OutboundTest, AKnownServiceWithoutEndpointsIsRefusedNotPassed) {
  mesh.Remove(backend.uid());
  const Route route = Decide("10.96.0.10:80");
  EXPECT_EQ(route.kind, Kind::kRefuse);
  EXPECT_EQ(route.reason, Reason::kNoHealthyUpstream);
}

TEST_F(OutboundTest, UnhealthyEndpointsAreNotUsed) {
  backend.set_status(istio::workload::UNHEALTHY);
  mesh.Put(backend);
  EXPECT_EQ(Decide("10.96.0.10:80").reason, Reason::kNoHealthyUpstream);
}

TEST_F(OutboundTest, AMissingWaypointIsRefusedNotBypassed) {
  mesh.Remove(waypoint.uid());
  EXPECT_EQ(Decide("10.96.0.30:80").reason, Reason::kWaypointUnavailable);
  mesh.Remove("shop/waypoint.shop.svc.cluster.local");
  EXPECT_EQ(Decide("10.96.0.30:80").reason, Reason::kWaypointUnavailable);
}

// Resolved when somebody connects; what is asked of it stays.
TEST_F(OutboundTest, AWaypointThatIsKnownByNameOnly) {
  waypoint.clear_addresses();
  mesh.Put(waypoint);
  EXPECT_EQ(Decide("10.96.0.30:80").reason, Reason::kWaypointUnavailable);
  waypoint.set_hostname("waypoint.example");
  reviews_service.mutable_waypoint()->set_hbone_mtls_port(15018);
  mesh.Put(waypoint).Put(reviews_service);
  Route route = Decide("10.96.0.30:80");
  ASSERT_EQ(route.kind, Kind::kHbone) << route.detail;
  EXPECT_EQ(route.host, "waypoint.example");
  EXPECT_FALSE(route.to.is_set());
  route.Resolved(Ip("192.0.2.9"), route.picked_port);
  EXPECT_EQ(route.host, "");
  EXPECT_EQ(route.to.ToString(), "192.0.2.9:15018");
  EXPECT_EQ(route.target.ToString(), "10.96.0.30:80");
  EXPECT_EQ(route.authority, "10.96.0.30:80");
  EXPECT_THAT(route.identities, ElementsAre("spiffe://cluster.local/ns/shop/sa/extra",
                                            "spiffe://cluster.local/ns/shop/sa/waypoint"));
}

TEST_F(OutboundTest, AGatewayThatIsKnownByNameOnly) {
  auto service = TestMesh::MakeService("eastwest", "", "gw");
  auto gateway = TestMesh::MakePod("eastwest", "", "", "gw");
  gateway.set_network("far");
  TestMesh::Join(gateway, service);
  backend.set_network("far");
  *backend.mutable_network_gateway() = TestMesh::GatewayOf(service);
  mesh.Put(service).Put(gateway).Put(backend);
  EXPECT_EQ(Decide("10.96.0.10:80").reason, Reason::kNoNetworkGateway);
  gateway.set_hostname("eastwest.example");
  mesh.Put(gateway);
  Route route = Decide("10.96.0.10:80");
  ASSERT_EQ(route.kind, Kind::kDoubleHbone) << route.detail;
  EXPECT_EQ(route.host, "eastwest.example");
  route.Resolved(Ip("192.0.2.9"), route.picked_port);
  EXPECT_EQ(route.to.ToString(), "192.0.2.9:15008");
  EXPECT_EQ(route.authority, "backend.shop.svc.cluster.local:80");
  EXPECT_FALSE(route.target.is_set());
}

TEST_F(OutboundTest, TheWaypointItselfGoesDirect) {
  const Route route = Decide("10.96.0.30:80", "waypoint");
  EXPECT_FALSE(route.via_waypoint);
  EXPECT_EQ(route.authority, "10.91.2.10:8080");
}

TEST_F(OutboundTest, WorkloadWaypointForPodAddressesOnly) {
  *backend.mutable_waypoint() = TestMesh::GatewayOf(waypoint_service);
  mesh.Put(backend);
  const Route by_pod = Decide("10.91.2.7:9999");
  EXPECT_TRUE(by_pod.via_waypoint);
  EXPECT_EQ(by_pod.authority, "10.91.2.7:9999");
  EXPECT_FALSE(Decide("10.96.0.10:80").via_waypoint);
  EXPECT_FALSE(Decide("10.91.2.7:9999", "waypoint").via_waypoint);
}

// Where destinations enforce their waypoint, a call of their service goes there too.
TEST_F(OutboundTest, WorkloadWaypointForServicesWhereItIsEnforced) {
  *backend.mutable_waypoint() = TestMesh::GatewayOf(waypoint_service);
  mesh.Put(backend);
  OutboundOptions enforced;
  enforced.waypoints_of_endpoints = true;
  const Route route = Decide("10.96.0.10:80", "frontend", enforced);
  EXPECT_TRUE(route.via_waypoint);
  EXPECT_EQ(route.to.ToString(), "10.91.2.9:15008");
  EXPECT_EQ(route.authority, "10.91.2.7:8080");
  EXPECT_EQ(route.service->name, "backend");
  EXPECT_FALSE(Decide("10.96.0.10:80", "waypoint", enforced).via_waypoint);
  // The service's own waypoint comes first, and what comes from there goes on to the pod.
  *reviews.mutable_waypoint() = TestMesh::GatewayOf(waypoint_service);
  mesh.Put(reviews);
  EXPECT_EQ(Decide("10.96.0.30:80", "frontend", enforced).authority, "10.96.0.30:80");
  EXPECT_EQ(Decide("10.96.0.30:80", "waypoint", enforced).authority, "10.91.2.10:8080");
}

TEST_F(OutboundTest, WaypointByAddress) {
  reviews_service.mutable_waypoint()->mutable_address()->set_address(IpBytes("10.96.0.20"));
  mesh.Put(reviews_service);
  EXPECT_EQ(Decide("10.96.0.30:80").to.ToString(), "10.91.2.9:15008");
  reviews_service.mutable_waypoint()->mutable_address()->set_address(IpBytes("10.91.2.9"));
  mesh.Put(reviews_service);
  EXPECT_EQ(Decide("10.96.0.30:80").to.ToString(), "10.91.2.9:15008");
}

TEST_F(OutboundTest, WaypointPortNeedNotBeAServicePort) {
  waypoint_service.clear_ports();
  mesh.Put(waypoint_service);
  waypoint.clear_services();
  (*waypoint.mutable_services())["shop/waypoint.shop.svc.cluster.local"];
  mesh.Put(waypoint);
  EXPECT_EQ(Decide("10.96.0.30:80").to.ToString(), "10.91.2.9:15008");
}

TEST_F(OutboundTest, WeightedWaypoints) {
  auto second_service = TestMesh::MakeService("waypoint-2", "10.96.0.21");
  auto second = TestMesh::MakePod("waypoint-2", "10.91.2.11", "n2");
  TestMesh::Join(second, second_service);
  mesh.Put(second_service).Put(second);
  auto* a = reviews_service.add_weighted_waypoints();
  *a->mutable_destination() = TestMesh::GatewayOf(waypoint_service);
  a->set_weight(1);
  auto* b = reviews_service.add_weighted_waypoints();
  *b->mutable_destination() = TestMesh::GatewayOf(second_service);
  b->set_weight(3);
  mesh.Put(reviews_service);
  int to_second = 0;
  for (int i = 0; i < 400; ++i) {
    to_second += Decide("10.96.0.30:80").to.ip() == Ip("10.91.2.11") ? 1 : 0;
  }
  EXPECT_GT(to_second, 250);
  EXPECT_LT(to_second, 350);
}

TEST_F(OutboundTest, PassthroughServiceGoesWhereItWasAsked) {
  backend_service.mutable_load_balancing()->set_mode(istio::workload::LoadBalancing::PASSTHROUGH);
  mesh.Put(backend_service);
  const Route route = Decide("10.96.0.10:80");
  EXPECT_EQ(route.kind, Kind::kPassthrough);
  EXPECT_EQ(route.to.ToString(), "10.96.0.10:80");
  EXPECT_EQ(route.service->name, "backend");
}

TEST_F(OutboundTest, WhoAsksForEncryptionTakesTheTunnelOnItsOwnNodeToo) {
  const PodFacts pod = TestMesh::LocalPod("backend-1", "10.91.2.7");
  const auto backend = TestMesh::MakePod("backend-1", "10.91.2.7");
  const auto client = TestMesh::MakePod("client-2", "10.91.1.6");
  const auto possible = [&](bool source, bool destination) {
    TestMesh here;
    auto from = client, to = backend;
    if (source) from.add_extensions()->set_name("qanat.io/encrypt");
    if (destination) to.add_extensions()->set_name("qanat.io/encrypt");
    const auto snapshot = here.Put(from).Put(to).Snapshot();
    const Route route = DecideOutbound(*snapshot, *snapshot->WorkloadByUid(from.uid()),
                                       At("10.91.2.7:80"), [] { return uint64_t{0}; });
    EXPECT_EQ(route.kind, Kind::kHbone);
    return DecideOnePass(route, &pod);
  };
  EXPECT_TRUE(possible(false, false).possible);
  EXPECT_EQ(possible(true, false).why_not, "the source asks for encryption (qanat.io/same-node)");
  EXPECT_EQ(possible(false, true).why_not,
            "the destination asks for encryption (qanat.io/same-node)");
}

TEST_F(OutboundTest, OnePassNeedsBothSourcesToAgree) {
  const Route route = Decide("10.96.0.10:80");
  const auto taken = [&](const Route& r, const PodFacts& pod) {
    return DecideOnePass(r, &pod).possible;
  };
  EXPECT_TRUE(taken(route, TestMesh::LocalPod("backend-1", "10.91.2.7")));
  EXPECT_FALSE(DecideOnePass(route, nullptr).possible);
  EXPECT_FALSE(taken(route, TestMesh::LocalPod("backend-1", "10.91.2.77")));
  EXPECT_FALSE(taken(route, TestMesh::LocalPod("backend-1", "10.91.2.7", "other")));
  EXPECT_FALSE(taken(route, TestMesh::LocalPod("other", "10.91.2.7")));
  EXPECT_FALSE(taken(Decide("10.96.0.30:80"), TestMesh::LocalPod("waypoint", "10.91.2.9")));
  EXPECT_FALSE(taken(Decide("10.91.2.8:80"), TestMesh::LocalPod("plain", "10.91.2.8")));
  EXPECT_FALSE(taken(Decide("10.91.2.7:15008"), TestMesh::LocalPod("backend-1", "10.91.2.7")));
}

}  // namespace
}  // namespace qanat::route
