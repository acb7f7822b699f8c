// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/route/inbound.h"

#include <functional>

#include "ztunnel/mesh_for_test.h"

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
                       const std::string& tunnel = "10.91.2.7:15008",
                       const InboundOptions& options = {}) {
    const auto snapshot = mesh.Snapshot();
    return DecideInbound(*snapshot, *snapshot->WorkloadByUid(backend.uid()), At(tunnel), authority,
                         forwarded, options);
  }
  // The workload takes PROXY v2 on this port; 0: on the port that was asked for.
  void Tunnel(uint16_t port) {
    backend.mutable_application_tunnel()->set_protocol(istio::workload::ApplicationTunnel::PROXY);
    backend.mutable_application_tunnel()->set_port(port);
    mesh.Put(backend);
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
      {"10.91.2.7:0", Reason::kBadRequest, 400, ""},
      {"10.91.2.7:15080", Reason::kNone, 200, "10.91.2.7:15080"},
      {"10.91.2.7", Reason::kBadRequest, 400, ""},
      {"", Reason::kBadRequest, 400, ""},
      {":80", Reason::kBadRequest, 400, ""},
      {"backend:", Reason::kBadRequest, 400, ""},
      {"backend:99999", Reason::kBadRequest, 400, ""},
      {"fd00::7::8080", Reason::kBadRequest, 400, ""},
      {"[fd91::1:80", Reason::kBadRequest, 400, ""},
  };
  for (const Case& c : cases) {
    const InboundTarget target = Decide(c.authority);
    EXPECT_EQ(target.reason, c.reason) << c.authority << ": " << target.detail;
    EXPECT_EQ(target.status, c.status) << c.authority;
    EXPECT_EQ(target.target.is_set() ? target.target.ToString() : "", c.target) << c.authority;
    if (c.reason != Reason::kNone) continue;
    EXPECT_EQ(target.connect, target.target) << c.authority;
    EXPECT_FALSE(target.proxy_protocol) << c.authority;
  }
}

TEST_F(InboundTest, Ipv6) {
  backend.add_addresses(IpBytes("fd91:2::7"));
  mesh.Put(backend);
  const std::string tunnel = "[fd91:2::7]:15008";
  EXPECT_EQ(Decide("[fd91:2::7]:8080", "", tunnel).target.ToString(), "[fd91:2::7]:8080");
  EXPECT_EQ(Decide("backend.shop.svc.cluster.local:80", "", tunnel).target.ToString(),
            "[fd91:2::7]:8080");
  // The workload's other address is not the one that was dialled.
  EXPECT_EQ(Decide("10.91.2.7:8080", "", tunnel).reason, Reason::kDestinationMismatch);
}

TEST_F(InboundTest, HostNamesOfTwoNamespaces) {
  // The receiver's own namespace comes first; who is in neither is refused.
  auto there = TestMesh::MakeService("backend", "10.96.0.12", "else");
  there.set_hostname("api.example.com");
  auto here = TestMesh::MakeService("api", "10.96.0.13");
  here.set_hostname("api.example.com");
  here.mutable_ports(0)->set_target_port(9090);
  mesh.Put(there);
  EXPECT_EQ(Decide("api.example.com:80").reason, Reason::kDestinationMismatch);
  TestMesh::Join(backend, here);
  mesh.Put(here).Put(backend);
  EXPECT_EQ(Decide("api.example.com:80").target.ToString(), "10.91.2.7:9090");
}

// ---- application tunnels

TEST_F(InboundTest, ApplicationTunnelTable) {
  service.add_addresses()->set_address(IpBytes("fd96::10"));
  auto foreign = TestMesh::MakeService("other-network", "");
  auto* far = foreign.add_addresses();
  far->set_network("far");
  far->set_address(IpBytes("10.0.0.9"));
  foreign.add_addresses()->set_address(IpBytes("fd96::99"));
  auto headless = TestMesh::MakeService("headless", "");
  mesh.Put(service).Put(foreign).Put(headless);
  struct Case {
    const char* name;
    const char* authority;
    uint16_t tunnel_port;
    const char* policy_sees;
    const char* connect;
    const char* destination;  // in the header
    const char* hostname;
  };
  const Case cases[] = {
      {"its own address", "10.91.2.7:80", 15088, "10.91.2.7:80", "127.0.0.1:15088", "10.91.2.7:80",
       ""},
      {"any address: what it stands for is its business", "10.96.0.11:443", 15088, "10.91.2.7:443",
       "127.0.0.1:15088", "10.96.0.11:443", ""},
      {"without a port of its own: the one asked for", "10.91.2.7:8080", 0, "10.91.2.7:8080",
       "127.0.0.1:8080", "10.91.2.7:8080", ""},
      {"a host name: the service's address, IPv4 first", "backend.shop.svc.cluster.local:80", 15088,
       "10.91.2.7:8080", "127.0.0.1:15088", "10.96.0.10:80", "backend.shop.svc.cluster.local"},
      {"our own network before another's", "other-network.shop.svc.cluster.local:80", 15088,
       "10.91.2.7:8080", "127.0.0.1:15088", "[fd96::99]:80",
       "other-network.shop.svc.cluster.local"},
      {"a service without an address", "headless.shop.svc.cluster.local:80", 15088,
       "10.91.2.7:8080", "127.0.0.1:15088", "10.91.2.7:8080", "headless.shop.svc.cluster.local"},
      {"a port that the service does not list", "backend.shop.svc.cluster.local:81", 15088,
       "10.91.2.7:81", "127.0.0.1:15088", "10.96.0.10:81", "backend.shop.svc.cluster.local"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    Tunnel(c.tunnel_port);
    const InboundTarget target = Decide(c.authority);
    ASSERT_EQ(target.reason, Reason::kNone) << target.detail;
    EXPECT_TRUE(target.proxy_protocol);
    EXPECT_EQ(target.target.ToString(), c.policy_sees);
    EXPECT_EQ(target.connect.ToString(), c.connect);
    EXPECT_EQ(target.proxy_destination.ToString(), c.destination);
    EXPECT_EQ(target.proxy_hostname, c.hostname);
  }
}

TEST_F(InboundTest, ApplicationTunnelEndsWhereItIsConfigured) {
  backend.add_addresses(IpBytes("fd91:2::7"));
  Tunnel(15088);
  EXPECT_EQ(Decide("[fd91:2::7]:80", "", "[fd91:2::7]:15008").connect.ToString(), "[::1]:15088");
  InboundOptions options;
  options.localhost_app_tunnel = false;
  EXPECT_EQ(Decide("10.91.2.7:80", "", "10.91.2.7:15008", options).connect.ToString(),
            "10.91.2.7:15088");
}

// Protocol NONE: nothing is put before the bytes, but they go to the tunnel's port all the same.
TEST_F(InboundTest, ApplicationTunnelWithoutAHeaderHasAPortToo) {
  const auto tunnel = [&](uint16_t port) {
    backend.mutable_application_tunnel()->set_protocol(istio::workload::ApplicationTunnel::NONE);
    backend.mutable_application_tunnel()->set_port(port);
    mesh.Put(backend);
  };
  tunnel(15088);
  InboundTarget target = Decide("10.96.0.11:443");
  ASSERT_EQ(target.reason, Reason::kNone) << target.detail;
  EXPECT_FALSE(target.proxy_protocol);
  EXPECT_EQ(target.connect.ToString(), "10.91.2.7:15088");  // not loopback
  EXPECT_EQ(target.target.ToString(), "10.91.2.7:443");     // what policy sees
  tunnel(0);
  EXPECT_EQ(Decide("10.91.2.7:8080").connect.ToString(), "10.91.2.7:8080");
  tunnel(15001);
  EXPECT_EQ(Decide("10.91.2.7:8080").reason, Reason::kSelfCall);
}

TEST_F(InboundTest, ApplicationTunnelNeverToTheProxyItself) {
  Tunnel(15088);
  EXPECT_EQ(Decide("10.91.2.7:15001").reason, Reason::kSelfCall);
  EXPECT_EQ(Decide("10.96.0.11:15008").reason, Reason::kSelfCall);
  Tunnel(15006);
  const InboundTarget target = Decide("10.91.2.7:80");
  EXPECT_EQ(target.reason, Reason::kSelfCall);
  EXPECT_EQ(target.status, 503);
}

// 15080 at loopback is the proxy's where it takes SOCKS, and else an application's like any other.
TEST_F(InboundTest, TheSocksPortIsTheProxysWhereItIsOn) {
  InboundOptions options;
  EXPECT_EQ(Decide("10.91.2.7:15080", "", "10.91.2.7:15008", options).reason, Reason::kNone);
  options.socks = true;
  EXPECT_EQ(Decide("10.91.2.7:15080", "", "10.91.2.7:15008", options).reason, Reason::kSelfCall);
  Tunnel(15080);
  EXPECT_EQ(Decide("10.91.2.7:80", "", "10.91.2.7:15008", options).reason, Reason::kSelfCall);
  options.socks = false;
  EXPECT_EQ(Decide("10.91.2.7:80", "", "10.91.2.7:15008", options).reason, Reason::kNone);
}

// ---- waypoints

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

TEST_F(InboundTest, WhatNamesAWaypointTable) {
  struct Case {
    const char* name;
    std::function<void(TestMesh::Service&, const TestMesh::Service&)> change;
    const char* authority;
    Reason reason;
    const char* target;
  };
  const Case cases[] = {
      {"a service by host name",
       [](auto& reviews, const auto& w) { *reviews.mutable_waypoint() = TestMesh::GatewayOf(w); },
       "reviews.shop.svc.cluster.local:80", Reason::kNone, "10.91.2.7:8080"},
      {"a service that has none", [](auto&, const auto&) {}, "10.96.0.30:80",
       Reason::kDestinationMismatch, ""},
      {"one of several by weight",
       [](auto& reviews, const auto& w) {
         *reviews.add_weighted_waypoints()->mutable_destination() = TestMesh::GatewayOf(w);
       },
       "10.96.0.30:80", Reason::kNone, "10.91.2.7:80"},
      {"the waypoint by its pod's address",
       [](auto& reviews, const auto&) {
         reviews.mutable_waypoint()->mutable_address()->set_address(IpBytes("10.91.2.7"));
       },
       "10.96.0.30:80", Reason::kNone, "10.91.2.7:80"},
      {"the waypoint by its service's address",
       [](auto& reviews, const auto&) {
         reviews.mutable_waypoint()->mutable_address()->set_address(IpBytes("10.96.0.10"));
       },
       "10.96.0.30:80", Reason::kNone, "10.91.2.7:80"},
      {"... of another network",
       [](auto& reviews, const auto&) {
         reviews.mutable_waypoint()->mutable_address()->set_address(IpBytes("10.91.2.7"));
         reviews.mutable_waypoint()->mutable_address()->set_network("far");
       },
       "10.96.0.30:80", Reason::kDestinationMismatch, ""},
      {"another workload's waypoint",
       [](auto& reviews, const auto&) {
         reviews.mutable_waypoint()->mutable_address()->set_address(IpBytes("10.91.2.8"));
       },
       "10.96.0.30:80", Reason::kDestinationMismatch, ""},
  };
  for (const Case& c : cases) {
    auto reviews = TestMesh::MakeService("reviews", "10.96.0.30");
    c.change(reviews, service);
    mesh.Put(reviews);
    const InboundTarget target = Decide(c.authority);
    EXPECT_EQ(ToString(target.reason), ToString(c.reason)) << c.name << ": " << target.detail;
    EXPECT_EQ(target.target.is_set() ? target.target.ToString() : "", c.target) << c.name;
  }
  // A workload whose waypoint this is, by its address.
  auto other = TestMesh::MakePod("other", "10.91.2.8");
  *other.mutable_waypoint() = TestMesh::GatewayOf(service);
  mesh.Put(other);
  EXPECT_EQ(Decide("10.91.2.8:9999").target.ToString(), "10.91.2.7:9999");
}

}  // namespace
}  // namespace qanat::ztunnel
