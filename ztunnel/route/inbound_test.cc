// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/route/inbound.h"

#include "ztunnel/route/mesh_for_test.h"

namespace qanat::ztunnel {
namespace {

using model::Reason;

class InboundTest : public ::testing::Test {
 protected:
  InboundTest() {
    service = TestMesh::MakeService("backend", "10.96.0.10");
    backend = TestMesh::MakePod("backend", "10.91.2.7");
    TestMesh::Join(backend, service);
    mesh.Put(service).Put(backend).Put(TestMesh::MakePod("other", "10.91.2.8"));
    mesh.Put(TestMesh::MakeService("foreign", "10.96.0.11"));
  }
  InboundTarget Decide(const std::string& authority, const std::string& forwarded = "",
                       const std::string& tunnel = "10.91.2.7:15008") {
    const auto snapshot = mesh.Snapshot();
    return DecideInbound(*snapshot, *snapshot->WorkloadByUid(backend.uid()), At(tunnel), authority,
                         forwarded);
  }
  TestMesh mesh;
  TestMesh::Workload backend;
  TestMesh::Service service;
};

TEST_F(InboundTest, Table) {
  struct Case {
    const char* authority;
    Reason reason;
    int status;
    const char* target;
  };
  const Case cases[] = {
      {"10.91.2.7:8080", Reason::kNone, 200, "10.91.2.7:8080"},
      {"10.91.2.8:8080", Reason::kDestinationMismatch, 400, ""},
      {"10.96.0.10:80", Reason::kDestinationMismatch, 400, ""},
      {"backend.shop.svc.cluster.local:80", Reason::kNone, 200, "10.91.2.7:8080"},
      {"backend.shop.svc.cluster.local:81", Reason::kNoSuchPort, 503, ""},
      {"foreign.shop.svc.cluster.local:80", Reason::kDestinationMismatch, 400, ""},
      {"nobody.shop.svc.cluster.local:80", Reason::kDestinationUnknown, 503, ""},
      {"10.91.2.7:15008", Reason::kSelfCall, 503, "10.91.2.7:15008"},
      {"10.91.2.7:15001", Reason::kSelfCall, 503, "10.91.2.7:15001"},
      {"10.91.2.7:0", Reason::kSelfCall, 503, "10.91.2.7:0"},
      {"10.91.2.7", Reason::kBadRequest, 400, ""},
      {"", Reason::kBadRequest, 400, ""},
      {":80", Reason::kBadRequest, 400, ""},
      {"backend:", Reason::kBadRequest, 400, ""},
      {"backend:99999", Reason::kBadRequest, 400, ""},
      {"[fd91::1:80", Reason::kDestinationUnknown, 503, ""},
  };
  for (const Case& c : cases) {
    const InboundTarget target = Decide(c.authority);
    EXPECT_EQ(target.reason, c.reason) << c.authority << ": " << target.detail;
    EXPECT_EQ(target.status, c.status) << c.authority;
    EXPECT_EQ(target.target.is_set() ? target.target.ToString() : "", c.target) << c.authority;
  }
}

TEST_F(InboundTest, ForwardedHostOnlyNamesTheService) {
  InboundTarget target =
      Decide("10.91.2.7:8080", "for=\"10.91.1.5:40000\";host=backend.shop.svc.cluster.local");
  ASSERT_NE(target.service, nullptr);
  EXPECT_EQ(target.service->name, "backend");
  // A service that this workload is not part of is not believed.
  target = Decide("10.91.2.7:8080", "for=\"x\";host=foreign.shop.svc.cluster.local");
  EXPECT_EQ(target.service, nullptr);
  EXPECT_EQ(target.reason, Reason::kNone);
}

TEST_F(InboundTest, AWaypointTakesWhatNamesIt) {
  auto reviews = TestMesh::MakeService("reviews", "10.96.0.30");
  *reviews.mutable_waypoint() = TestMesh::GatewayOf(service);
  mesh.Put(reviews);
  EXPECT_EQ(Decide("10.96.0.30:80").reason, Reason::kNone);
  EXPECT_EQ(Decide("10.96.0.30:80").target.ToString(), "10.91.2.7:80");
  EXPECT_EQ(Decide("10.96.0.11:80").reason, Reason::kDestinationMismatch);
}

}  // namespace
}  // namespace qanat::ztunnel
