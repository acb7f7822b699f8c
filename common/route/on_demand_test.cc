// SPDX-License-Identifier: Apache-2.0
#include "common/route/on_demand.h"

#include <gmock/gmock.h>

#include "common/route/mesh_for_test.h"
#include "common/route/outbound.h"

namespace qanat::route {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

class OnDemandNamesTest : public ::testing::Test {
 protected:
  OnDemandNamesTest() { state_.UpsertAddress("", TestMesh::Wire(client_)); }
  std::vector<std::string> Outbound(const std::string& to) {
    const auto snapshot = state_.Publish();
    std::vector<std::string> missing;
    OutboundOptions options;
    options.missing = &missing;
    DecideOutbound(
        *snapshot, *snapshot->WorkloadByUid(client_.uid()), At(to), [] { return uint64_t{0}; },
        options);
    return missing;
  }
  void Put(const TestMesh::Workload& w) {
    ASSERT_TRUE(state_.UpsertAddress(w.uid(), TestMesh::Wire(w)));
  }
  void Put(const TestMesh::Service& s) { ASSERT_TRUE(state_.UpsertAddress("", TestMesh::Wire(s))); }

  TestMesh::Workload client_ = TestMesh::MakePod("client", "10.91.1.5");
  state::MeshState state_;
};

TEST_F(OnDemandNamesTest, AnUnknownAddress) {
  EXPECT_THAT(Outbound("10.91.2.1:80"), ElementsAre("/10.91.2.1"));
  EXPECT_THAT(Outbound("[fd00::1]:80"), ElementsAre("/fd00::1"));
  EXPECT_THAT(Outbound("127.0.0.1:80"), IsEmpty());
  EXPECT_THAT(Outbound("169.254.169.254:80"), IsEmpty());
  state_.MarkAbsent("/10.91.2.1");
  EXPECT_THAT(Outbound("10.91.2.1:80"), IsEmpty());
  state_.ForgetAbsent("/10.91.2.1");
  EXPECT_THAT(Outbound("10.91.2.1:80"), ElementsAre("/10.91.2.1"));
  Put(TestMesh::MakePod("backend", "10.91.2.1"));
  EXPECT_THAT(Outbound("10.91.2.1:80"), IsEmpty());
}

TEST_F(OnDemandNamesTest, AWaypointByNameAndByAddress) {
  auto backend = TestMesh::MakePod("backend", "10.91.2.1");
  const auto waypoint = TestMesh::MakeService("waypoint", "10.96.0.9");
  *backend.mutable_waypoint() = TestMesh::GatewayOf(waypoint);
  Put(backend);
  EXPECT_THAT(Outbound("10.91.2.1:80"), ElementsAre("shop/waypoint.shop.svc.cluster.local"));
  backend.mutable_waypoint()->mutable_address()->set_address(IpBytes("10.96.0.9"));
  Put(backend);
  EXPECT_THAT(Outbound("10.91.2.1:80"), testing::Each("/10.96.0.9"));
  EXPECT_FALSE(Outbound("10.91.2.1:80").empty());
  Put(waypoint);
  EXPECT_THAT(Outbound("10.91.2.1:80"), IsEmpty());
}

TEST_F(OnDemandNamesTest, Inbound) {
  auto backend = TestMesh::MakePod("backend", "10.91.2.1");
  auto service = TestMesh::MakeService("backend", "10.96.0.10");
  TestMesh::Join(backend, service);
  Put(backend);
  const auto names = [&](const std::string& authority, const std::string& sender) {
    const auto snapshot = state_.Publish();
    return MissingForInbound(*snapshot, *snapshot->WorkloadByUid(backend.uid()),
                             At("10.91.2.1:15008"), authority, Ip(sender));
  };
  const std::string key = "shop/backend.shop.svc.cluster.local";
  EXPECT_THAT(names("10.91.2.1:8080", "10.91.1.5"), ElementsAre(key));
  const auto waypoint = TestMesh::MakeService("waypoint", "10.96.0.9");
  *service.mutable_waypoint() = TestMesh::GatewayOf(waypoint);
  Put(service);
  EXPECT_THAT(names("10.91.2.1:8080", "10.91.1.5"),
              ElementsAre("shop/waypoint.shop.svc.cluster.local"));
  Put(waypoint);
  EXPECT_THAT(names("10.91.2.1:8080", "10.91.1.5"), IsEmpty());
  EXPECT_THAT(names("10.91.2.1:8080", "10.91.9.9"), ElementsAre("/10.91.9.9"));
  EXPECT_THAT(names("10.96.7.7:80", "10.91.1.5"), ElementsAre("/10.96.7.7"));
  EXPECT_THAT(names("10.96.0.10:80", "10.91.1.5"), IsEmpty());
  EXPECT_THAT(names("backend.shop.svc.cluster.local:80", "10.91.1.5"), IsEmpty());
  EXPECT_THAT(
      names("web.bank.svc.cluster.local:80", "10.91.1.5"),
      UnorderedElementsAre("shop/web.bank.svc.cluster.local", "bank/web.bank.svc.cluster.local"));
  EXPECT_THAT(names("nonsense", "10.91.1.5"), ElementsAre("shop/nonsense"));
  EXPECT_THAT(names("", "10.91.1.5"), IsEmpty());
}

TEST_F(OnDemandNamesTest, Known) {
  Put(TestMesh::MakeService("backend", "10.96.0.10"));
  const auto snapshot = state_.Publish();
  EXPECT_TRUE(IsKnown(*snapshot, "/10.91.1.5"));
  EXPECT_TRUE(IsKnown(*snapshot, "/10.96.0.10"));
  EXPECT_TRUE(IsKnown(*snapshot, client_.uid()));
  EXPECT_TRUE(IsKnown(*snapshot, "shop/backend.shop.svc.cluster.local"));
  EXPECT_FALSE(IsKnown(*snapshot, "/10.91.1.6"));
  EXPECT_FALSE(IsKnown(*snapshot, "other/10.91.1.5"));
  EXPECT_FALSE(IsKnown(*snapshot, ""));
}

}  // namespace
}  // namespace qanat::route
