// SPDX-License-Identifier: Apache-2.0
// Services on the direct path with the agent's own tables: what it answers when it is asked, and
// what a change of the mesh does by the time that the agent has acknowledged it.
#include <gtest/gtest.h>

#include <map>

#include "common/lb/draw.h"
#include "tests/bpf/direct_bed.h"
#include "tests/bpf/mesh_server.h"

namespace qanat::test {
namespace {

namespace wire = istio::workload;

constexpr char kVip[] = "10.66.200.1:80", kVip6[] = "[fd66:200::1]:80";

std::string Bytes(const std::string& text) {
  const auto ip = net::IpAddress::Parse(text).value();
  return {reinterpret_cast<const char*>(ip.bytes().data()), ip.bytes().size()};
}

// a calls the service, b and a pod of another node serve it.
class DirectServiceTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    t_ = new DirectBed("qSERVICE", [](DirectBed& bed) {
      mesh_ = new MeshServer(bed.bed);
      mesh_->Put(WorkloadOf(bed.a));
      mesh_->Put(Serving(bed.b));
      mesh_->Put(Far());
      mesh_->Put(Service());
    });
    ASSERT_TRUE(mesh_->WaitAcked());
  }
  static void TearDownTestSuite() {
    EXPECT_EQ(t_->bed.SanitizerReport(), "");
    if (::testing::Test::HasFailure()) std::fprintf(stderr, "%s\n", t_->bed.Log().c_str());
    delete mesh_;
    delete t_;
  }
  void SetUp() override {
    ASSERT_TRUE(t_->bed.WaitFor([] { return Way(kVip) == "app" && Way(kVip6) == "app"; }, 20000))
        << t_->bed.Admin("/direct");
  }
  void TearDown() override {
    mesh_->Put(Serving(t_->b));
    mesh_->Put(Service());
    ASSERT_TRUE(mesh_->WaitAcked());
  }

  static wire::Service Service() {
    wire::Service service;
    service.set_name("backend");
    service.set_namespace_("shop");
    service.set_hostname("backend.shop.svc.cluster.local");
    for (const char* ip : {"10.66.200.1", "fd66:200::1"})
      service.add_addresses()->set_address(Bytes(ip));
    auto& port = *service.add_ports();
    port.set_service_port(80);
    port.set_target_port(8080);
    return service;
  }
  static wire::Workload Joined(wire::Workload workload) {
    auto& ports = (*workload.mutable_services())["shop/backend.shop.svc.cluster.local"];
    *ports.add_ports() = Service().ports(0);
    return workload;
  }
  static wire::Workload Serving(const Bed::PodInfo& pod) { return Joined(WorkloadOf(pod)); }
  static wire::Workload Far() {
    Bed::PodInfo pod;
    pod.name = "far";
    pod.ip4 = "10.66.9.9";
    pod.ip6 = "fd66:9::9";
    wire::Workload workload = Serving(pod);
    workload.set_node("n2");
    return workload;
  }
  // "app", "drawn" (the proxy is told of the far one), "out" (the proxy picks), or what else it
  // said.
  static std::string Way(const std::string& to) {
    const std::string line = t_->From(t_->a, {.to = to});
    const std::string far = std::to_string(lb::DrawCode("Kubernetes//Pod/shop/far"));
    if (line.rfind("app " + (to == kVip ? t_->b.ip4 : "[" + t_->b.ip6), 0) == 0) return "app";
    if (line.rfind("out ", 0) != 0 || line.find(" " + to + " ") == std::string::npos) return line;
    const size_t drawn = line.find(" drawn=");
    if (drawn == std::string::npos) return "out";
    return line.substr(drawn + 7) == far ? "drawn" : line;
  }
  static std::map<std::string, int> Ways(int count, const std::string& to = kVip) {
    std::map<std::string, int> ways;
    for (int i = 0; i < count; ++i) ++ways[Way(to)];
    return ways;
  }
  static void ExpectProxyPicks() {
    for (const char* to : {kVip, kVip6}) {
      const auto ways = Ways(20, to);
      EXPECT_EQ(ways.size(), 1u);
      EXPECT_TRUE(ways.contains("out")) << ways.begin()->first;
    }
  }

  inline static DirectBed* t_ = nullptr;
  inline static MeshServer* mesh_ = nullptr;
};

TEST_F(DirectServiceTest, NearAndFarGetTheirShares) {
  for (const char* to : {kVip, kVip6}) {
    const auto ways = Ways(200, to);
    ASSERT_EQ(ways.size(), 2u) << ways.begin()->first;
    // Five standard deviations of a half.
    EXPECT_NEAR(ways.at("app"), 100, 36);
    EXPECT_NEAR(ways.at("drawn"), 100, 36);
  }
}

TEST_F(DirectServiceTest, AWaypointIsGoneThroughByTheAcknowledgement) {
  wire::Service service = Service();
  service.mutable_waypoint()->mutable_hostname()->set_namespace_("shop");
  service.mutable_waypoint()->mutable_hostname()->set_hostname("waypoint.shop.svc.cluster.local");
  service.mutable_waypoint()->set_hbone_mtls_port(15008);
  mesh_->Put(service);
  ASSERT_TRUE(mesh_->WaitAcked());
  ExpectProxyPicks();
}

TEST_F(DirectServiceTest, AnEndpointThatIsNotReadyIsNotDrawn) {
  wire::Workload sick = Serving(t_->b);
  sick.set_status(wire::UNHEALTHY);
  mesh_->Put(sick);
  ASSERT_TRUE(mesh_->WaitAcked());
  ExpectProxyPicks();
}

TEST_F(DirectServiceTest, WhatAPolicyRefusesIsTheProxysToRefuse) {
  istio::security::Authorization policy;
  policy.set_name("deny");
  policy.set_namespace_("shop");
  policy.set_scope(istio::security::NAMESPACE);
  policy.set_action(istio::security::DENY);
  policy.add_rules()->add_clauses()->add_matches()->add_destination_ports(8080);
  mesh_->Put(policy);
  ASSERT_TRUE(mesh_->WaitAcked());
  ExpectProxyPicks();
  mesh_->RemovePolicy("shop/deny");
  ASSERT_TRUE(mesh_->WaitAcked());
}

TEST_F(DirectServiceTest, AnotherAddressIsNoServicesAndIsRemembered) {
  EXPECT_EQ(Way("10.66.201.1:80"), "out");
  const auto asked = [] { return t_->Counter(t_->a, QANAT_CNT_DIRECT_ASKED); };
  const uint64_t before = asked();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Way("10.66.201.1:80"), "out");
  EXPECT_EQ(asked(), before);
}

}  // namespace
}  // namespace qanat::test
