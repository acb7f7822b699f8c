// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/route/described.h"

#include "ztunnel/mesh_for_test.h"

namespace qanat::ztunnel {
namespace {

// "far" is another network, behind the gateway "eastwest"; "ingress" is one that the control plane
// marked.
class ForwardedTest : public ::testing::Test {
 protected:
  ForwardedTest() {
    gateway = TestMesh::MakePod("eastwest", "10.99.0.1");
    gateway.set_network("far");
    auto remote = TestMesh::MakePod("remote", "10.91.1.5");
    remote.set_network("far");
    remote.mutable_network_gateway()->mutable_address()->set_network("far");
    remote.mutable_network_gateway()->mutable_address()->set_address(IpBytes("10.99.0.1"));
    auto ingress = TestMesh::MakePod("ingress", "10.91.2.11");
    ingress.add_extensions()->set_name("qanat.io/gateway");
    mesh.Put(gateway).Put(remote).Put(ingress).Put(TestMesh::MakePod("client", "10.91.1.5"));
  }
  model::WorkloadPtr From(const std::string& account, const std::string& network) {
    const auto snapshot = mesh.Snapshot();
    route::Sender sender{std::nullopt, Ip("10.99.0.1")};
    if (!account.empty()) sender.identity = model::Identity{"cluster.local", "shop", account};
    return ForwardedSource(*snapshot, sender, network,
                           "k8s.cluster.name=c2,k8s.namespace.name=ns2,k8s.deployment.name=web,"
                           "service.name=web,service.version=v3,cloud.region=r");
  }
  TestMesh mesh;
  TestMesh::Workload gateway;
};

TEST_F(ForwardedTest, OnlyThatNetworksGatewayIsBelieved) {
  const auto source = From("eastwest", "far");
  ASSERT_NE(source, nullptr);
  EXPECT_EQ(source->ns, "ns2");
  EXPECT_EQ(source->workload_name, "web");
  EXPECT_EQ(source->cluster_id, "c2");
  EXPECT_EQ(source->canonical_revision, "v3");
  EXPECT_EQ(source->network, "far");
  EXPECT_EQ(From("eastwest", "elsewhere"), nullptr);  // another network's
  EXPECT_EQ(From("client", "far"), nullptr);          // from the gateway's address
  EXPECT_EQ(From("ingress", "far"), nullptr);         // a gateway, but not of that network
  EXPECT_EQ(From("", "far"), nullptr);
  // Once nobody names it any more it is no gateway.
  mesh.Remove("Kubernetes//Pod/shop/remote");
  EXPECT_EQ(From("eastwest", "far"), nullptr);
}

}  // namespace
}  // namespace qanat::ztunnel
