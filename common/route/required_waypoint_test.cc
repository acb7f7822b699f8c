// SPDX-License-Identifier: Apache-2.0
#include "common/route/required_waypoint.h"

#include <span>

#include "common/route/mesh_for_test.h"

namespace qanat::route {
namespace {

using model::Reason;

// shop: backend (services backend and open), the waypoints w (of the workload or of the service)
// and w2, an ingress gateway, a client, all with their own identities.
class RequiredWaypointTest : public ::testing::Test {
 protected:
  RequiredWaypointTest() {
    waypoint_service = TestMesh::MakeService("w", "10.96.0.20");
    waypoint_service.add_subject_alt_names("spiffe://cluster.local/ns/shop/sa/w-extra");
    auto waypoint = TestMesh::MakePod("w", "10.91.2.9");
    TestMesh::Join(waypoint, waypoint_service);
    service = TestMesh::MakeService("backend", "10.96.0.10");
    backend = TestMesh::MakePod("backend", "10.91.2.7");
    TestMesh::Join(backend, service);
    auto ingress = TestMesh::MakePod("ingress", "10.91.2.11");
    ingress.add_extensions()->set_name("qanat.io/gateway");
    auto tunnel = TestMesh::MakePod("native", "10.91.2.12");
    tunnel.set_native_tunnel(true);
    mesh.Put(waypoint_service).Put(waypoint).Put(service).Put(backend);
    mesh.Put(ingress).Put(tunnel).Put(TestMesh::MakePod("client", "10.91.1.5"));
  }
  void WorkloadWaypoint() {
    *backend.mutable_waypoint() = TestMesh::GatewayOf(waypoint_service);
    mesh.Put(backend);
  }
  void ServiceRequires(bool has_waypoint = true) {
    if (has_waypoint) *service.mutable_waypoint() = TestMesh::GatewayOf(waypoint_service);
    service.add_extensions()->set_name("qanat.io/require-waypoint");
    mesh.Put(service);
  }
  // `account` "" is plaintext.
  bool Accepts(const std::string& account, const std::string& ip, uint16_t port = 8080) {
    const auto snapshot = mesh.Snapshot();
    Sender sender{std::nullopt, Ip(ip)};
    if (!account.empty()) sender.identity = model::Identity{"cluster.local", "shop", account};
    const RequiredWaypoint found = CheckRequiredWaypoint(
        *snapshot, *snapshot->WorkloadByUid(backend.uid()), {Ip("10.91.2.7"), port}, sender);
    EXPECT_TRUE(found.reason == Reason::kNone || found.reason == Reason::kWaypointRequired);
    EXPECT_EQ(found.reason == Reason::kNone, found.detail.empty());
    return found.reason == Reason::kNone;
  }
  struct Case {
    const char* name;
    const char* account;
    const char* ip;
    bool accepted;
  };
  void Check(std::span<const Case> cases) {
    for (const Case& c : cases) EXPECT_EQ(Accepts(c.account, c.ip), c.accepted) << c.name;
  }

  TestMesh mesh;
  TestMesh::Workload backend;
  TestMesh::Service service, waypoint_service;
};

TEST_F(RequiredWaypointTest, NobodyAsks) {
  EXPECT_TRUE(Accepts("client", "10.91.1.5"));
  EXPECT_TRUE(Accepts("", "192.0.2.1"));
}

TEST_F(RequiredWaypointTest, WorkloadWaypointTable) {
  WorkloadWaypoint();
  const Case cases[] = {
      {"the waypoint", "w", "10.91.2.9", true},
      {"the waypoint's identity counts, its address does not", "w", "10.91.9.9", true},
      {"an identity that the waypoint's service names", "w-extra", "10.91.9.9", true},
      {"a client", "client", "10.91.1.5", false},
      {"a client at the waypoint's address", "client", "10.91.2.9", false},
      {"plaintext", "", "10.91.1.5", false},
      {"plaintext from the waypoint's address", "", "10.91.2.9", false},
      {"an ingress gateway", "ingress", "10.91.2.11", true},
      {"... its identity elsewhere", "ingress", "10.91.1.5", false},
      {"... another identity at its address", "client", "10.91.2.11", false},
      {"who speaks HBONE itself is no gateway by that", "native", "10.91.2.12", false},
      {"the node's probe", "", "169.254.7.127", true},
      {"the node's probe over IPv6", "", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff", true},
      {"an identity does not come from the probe's address", "client", "169.254.7.127", false},
  };
  Check(cases);
  // Every port, not only those of services.
  EXPECT_FALSE(Accepts("client", "10.91.1.5", 9999));
}

TEST_F(RequiredWaypointTest, AWaypointThatIsNotThereAdmitsNobody) {
  WorkloadWaypoint();
  mesh.Remove("shop/w.shop.svc.cluster.local");
  EXPECT_FALSE(Accepts("w", "10.91.2.9"));
  EXPECT_FALSE(Accepts("client", "10.91.1.5"));
}

TEST_F(RequiredWaypointTest, WaypointByAddress) {
  backend.mutable_waypoint()->mutable_address()->set_address(IpBytes("10.91.2.9"));
  mesh.Put(backend);
  EXPECT_TRUE(Accepts("w", "10.91.2.9"));
  EXPECT_FALSE(Accepts("client", "10.91.1.5"));
  backend.mutable_waypoint()->mutable_address()->set_address(IpBytes("10.96.0.20"));
  mesh.Put(backend);
  EXPECT_TRUE(Accepts("w", "10.91.2.9"));
  EXPECT_FALSE(Accepts("client", "10.91.1.5"));
}

// A service's waypoint alone binds nobody; the label does, on the ports of that service.
TEST_F(RequiredWaypointTest, ServiceTable) {
  *service.mutable_waypoint() = TestMesh::GatewayOf(waypoint_service);
  mesh.Put(service);
  EXPECT_TRUE(Accepts("client", "10.91.1.5"));
  ServiceRequires();
  EXPECT_FALSE(Accepts("client", "10.91.1.5"));
  EXPECT_FALSE(Accepts("", "10.91.1.5"));
  EXPECT_TRUE(Accepts("w", "10.91.2.9"));
  EXPECT_TRUE(Accepts("ingress", "10.91.2.11"));
  EXPECT_TRUE(Accepts("client", "10.91.1.5", 9999));  // a port for metrics
}

TEST_F(RequiredWaypointTest, AServiceThatRequiresAWaypointAndHasNoneIsShut) {
  ServiceRequires(false);
  EXPECT_FALSE(Accepts("client", "10.91.1.5"));
  EXPECT_FALSE(Accepts("w", "10.91.2.9"));
}

TEST_F(RequiredWaypointTest, WeightedWaypointsOfAService) {
  ServiceRequires(false);
  auto* weighted = service.add_weighted_waypoints();
  *weighted->mutable_destination() = TestMesh::GatewayOf(waypoint_service);
  weighted->set_weight(1);
  mesh.Put(service);
  EXPECT_TRUE(Accepts("w", "10.91.2.9"));
  EXPECT_FALSE(Accepts("client", "10.91.1.5"));
}

// The workload has one waypoint and its service another: what came the way that the routes give
// a call of the service has passed a waypoint.
TEST_F(RequiredWaypointTest, TheServicesWaypointServesAWorkloadWithItsOwn) {
  auto other_service = TestMesh::MakeService("w2", "10.96.0.21");
  auto other = TestMesh::MakePod("w2", "10.91.2.10");
  TestMesh::Join(other, other_service);
  mesh.Put(other_service).Put(other);
  WorkloadWaypoint();
  EXPECT_FALSE(Accepts("w2", "10.91.2.10"));
  *service.mutable_waypoint() = TestMesh::GatewayOf(other_service);
  mesh.Put(service);
  EXPECT_TRUE(Accepts("w2", "10.91.2.10"));
  EXPECT_TRUE(Accepts("w", "10.91.2.9"));
}

}  // namespace
}  // namespace qanat::route
