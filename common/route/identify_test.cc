// SPDX-License-Identifier: Apache-2.0
#include "common/route/identify.h"

#include "common/route/mesh_for_test.h"

namespace qanat::route {
namespace {

using model::Reason;

class IdentifyTest : public ::testing::Test {
 protected:
  Identified Identify(const PodFacts& pod) { return IdentifyPod(*mesh.Snapshot(), where, pod); }
  TestMesh mesh;
  Mesh where;
};

TEST_F(IdentifyTest, BothAgree) {
  mesh.Put(TestMesh::MakePod("a", "10.91.1.5"));
  const auto found = Identify(TestMesh::LocalPod("a", "10.91.1.5"));
  ASSERT_EQ(found.reason, Reason::kNone) << found.detail;
  EXPECT_EQ(found.workload->name(), "a");
}

TEST_F(IdentifyTest, NotAnnounced) {
  EXPECT_EQ(Identify(TestMesh::LocalPod("a", "10.91.1.5")).reason, Reason::kSourceUnknown);
}

TEST_F(IdentifyTest, OtherServiceAccount) {
  mesh.Put(TestMesh::MakePod("a", "10.91.1.5"));
  EXPECT_EQ(Identify(TestMesh::LocalPod("a", "10.91.1.5", "thief")).reason,
            Reason::kAddressMismatch);
}

TEST_F(IdentifyTest, OtherAddress) {
  mesh.Put(TestMesh::MakePod("a", "10.91.1.5"));
  EXPECT_EQ(Identify(TestMesh::LocalPod("a", "10.91.1.6")).reason, Reason::kAddressMismatch);
}

// The address of a pod that is gone is given to another one within a second.
TEST_F(IdentifyTest, ReusedAddressWaitsUntilBothAgree) {
  mesh.Put(TestMesh::MakePod("old", "10.91.1.5"));
  const auto pod = TestMesh::LocalPod("new", "10.91.1.5");
  EXPECT_EQ(Identify(pod).reason, Reason::kSourceUnknown);  // never "old"
  mesh.Put(TestMesh::MakePod("new", "10.91.1.5"));
  EXPECT_EQ(Identify(pod).reason, Reason::kAddressMismatch);  // announced for both
  mesh.Remove("Kubernetes//Pod/shop/old");
  EXPECT_EQ(Identify(pod).reason, Reason::kNone);
}

TEST_F(IdentifyTest, AReplacedStatefulPodKeepsItsNameNotItsRights) {
  mesh.Put(TestMesh::MakePod("db-0", "10.91.1.5"));
  EXPECT_EQ(Identify(TestMesh::LocalPod("db-0", "10.91.1.9", "other")).reason,
            Reason::kAddressMismatch);
}

TEST_F(IdentifyTest, AWorkloadEntryOnTheSameAddressIsNoConflict) {
  mesh.Put(TestMesh::MakePod("a", "10.91.1.5"));
  auto entry = TestMesh::MakePod("we", "10.91.1.5");
  entry.set_uid("Kubernetes/networking.istio.io/WorkloadEntry/shop/we");
  mesh.Put(entry);
  EXPECT_EQ(Identify(TestMesh::LocalPod("a", "10.91.1.5")).reason, Reason::kNone);
}

TEST_F(IdentifyTest, AnotherClusterIdIsFoundByAddress) {
  auto pod = TestMesh::MakePod("a", "10.91.1.5");
  pod.set_uid("cluster-7//Pod/shop/a");
  mesh.Put(pod);
  EXPECT_EQ(Identify(TestMesh::LocalPod("a", "10.91.1.5")).reason, Reason::kNone);
}

}  // namespace
}  // namespace qanat::route
