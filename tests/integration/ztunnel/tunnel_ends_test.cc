// SPDX-License-Identifier: Apache-2.0
// Destinations that want more than bytes: a PROXY header (application tunnel), or a waypoint on the
// way.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/integration/ztunnel/bed.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Ge;
using testing::HasSubstr;

// frontend on n1, backend on n2 behind a service.
class TunnelEndsTest : public Bed {
 protected:
  void Make(const std::function<void(TestMesh::Workload&)>& change,
            const std::function<void(Config&)>& config = {}) {
    frontend = &AddPod(1);
    backend = &AddPod(2);
    outside = &AddPod(9, Capture::kNone);
    service = TestMesh::MakeService("backend", "10.96.0.10");
    Put(service);
    Announce("frontend", *frontend, "n1");
    Announce("backend", *backend, "n2", [&](TestMesh::Workload& w) {
      TestMesh::Join(w, service);
      change(w);
    });
    n1 = &AddNode("n1");
    n2 = &AddNode("n2", config);
    ASSERT_EQ(n1->Enrol("frontend", *frontend), "");
    ASSERT_EQ(n2->Enrol("backend", *backend), "");
    ASSERT_EQ(n2->agent().SnapshotSent(), "");
  }
  bool Talks(const PodNet& from, const std::string& to) {
    Tcp tcp = ConnectFrom(from.netns(), to);
    return tcp.connected() && tcp.Send("x") && tcp.Read(1) == "x";
  }

  PodNet *frontend = nullptr, *backend = nullptr, *outside = nullptr;
  Node *n1 = nullptr, *n2 = nullptr;
  TestMesh::Service service;
};

// ---- PROXY protocol

void TakeProxy(TestMesh::Workload& w) {
  w.mutable_application_tunnel()->set_protocol(istio::workload::ApplicationTunnel::PROXY);
  w.mutable_application_tunnel()->set_port(15088);
}

// Reads one header as an application would, then echoes.
struct ProxyServer {
  ProxyServer(const netns::NetNs& netns, const std::string& at)
      : server(netns, at, [this](Tcp& tcp, const std::string& from) {
          const std::string head = tcp.Read(16);
          if (head.size() < 16) return;
          const size_t size = static_cast<size_t>(static_cast<unsigned char>(head[14])) << 8 |
                              static_cast<unsigned char>(head[15]);
          peer = from;
          header = head + tcp.Read(size);
          tcp.Send(tcp.Read(1));
        }) {}
  std::string peer, header;
  Server server;
};

std::string AddressBytes(const std::string& ip) { return IpBytes(ip); }

TEST_F(TunnelEndsTest, ProxyHeaderAtLoopback) {
  Make(TakeProxy);
  ProxyServer app(backend->netns(), "127.0.0.1:15088");
  ASSERT_TRUE(Talks(*frontend, "10.96.0.10:80"));
  ASSERT_GE(app.header.size(), 28u);
  EXPECT_EQ(app.header.substr(0, 14), std::string("\r\n\r\n\0\r\nQUIT\n\x21\x11", 14));
  EXPECT_EQ(app.header.substr(16, 4), AddressBytes(frontend->ip()));
  EXPECT_EQ(app.header.substr(20, 4), AddressBytes(backend->ip()));
  EXPECT_EQ(app.header.substr(26, 2), std::string("\x1f\x90", 2));  // 8080
  const std::string identity = "spiffe://cluster.local/ns/shop/sa/frontend";
  EXPECT_EQ(
      app.header.substr(28),
      std::string("\xd0\x00", 2) + std::string(1, static_cast<char>(identity.size())) + identity);
  EXPECT_EQ(app.peer, "127.0.0.1");
}

TEST_F(TunnelEndsTest, ProxyHeaderAtThePodsAddress) {
  Make(TakeProxy, [](Config& config) { config.localhost_app_tunnel = false; });
  ProxyServer app(backend->netns(), backend->At(15088));
  ASSERT_TRUE(Talks(*frontend, "10.96.0.10:80"));
  EXPECT_EQ(app.header.substr(16, 4), AddressBytes(frontend->ip()));
}

// What policies say of the port that was asked for holds, not of the tunnel's own.
TEST_F(TunnelEndsTest, ProxyTunnelsArePoliced) {
  Make(TakeProxy);
  ProxyServer app(backend->netns(), "127.0.0.1:15088");
  auto policy = TestMesh::MakePolicy("deny", istio::security::DENY);
  policy.add_rules()->add_clauses()->add_matches()->add_destination_ports(8080);
  Put(policy);
  EXPECT_TRUE(Eventually([&] { return !Talks(*frontend, "10.96.0.10:80"); }));
  EXPECT_TRUE(n2->Counts("qanat_connections_refused_total", {"policy_denied"}, Ge(1)));
}

// ---- waypoints

// A waypoint as a pod of n1: what reaches it goes on to the backend, byte by byte.
class WaypointTest : public TunnelEndsTest {
 protected:
  void MakeMesh(const std::function<void(Config&)>& config = {}) {
    waypoint_service = TestMesh::MakeService("w", "10.96.0.20");
    Put(waypoint_service);
    Make([&](TestMesh::Workload& w) { *w.mutable_waypoint() = GatewayOf(); }, config);
    waypoint = &AddPod(4);
    Announce("w", *waypoint, "n1",
             [&](TestMesh::Workload& w) { TestMesh::Join(w, waypoint_service); });
    ASSERT_TRUE(IsKnown(*waypoint));
    ASSERT_EQ(n1->Enrol("w", *waypoint), "");
    ASSERT_EQ(n1->agent().SnapshotSent(), "");
    app = std::make_unique<Server>(backend->netns(), backend->At(8080), Server::Echo());
    // What the bed captures in plaintext.
    plain = std::make_unique<Server>(backend->netns(), backend->At(7000), Server::Echo());
    relay = std::make_unique<Server>(waypoint->netns(), waypoint->At(8080),
                                     [this](Tcp& tcp, const std::string&) {
                                       const std::string byte = tcp.Read(1);
                                       Tcp on = ConnectFrom(waypoint->netns(), backend->At(8080));
                                       on.Send(byte);
                                       tcp.Send(on.Read(1));
                                     });
  }
  istio::workload::GatewayAddress GatewayOf() { return TestMesh::GatewayOf(waypoint_service); }

  PodNet* waypoint = nullptr;
  TestMesh::Service waypoint_service;
  std::unique_ptr<Server> app, plain, relay;
};

TEST_F(WaypointTest, WhatGoesAroundIsRefused) {
  MakeMesh();
  EXPECT_TRUE(Talks(*frontend, backend->At(8080)));
  EXPECT_EQ(relay->accepted(), 1);
  EXPECT_TRUE(Talks(*frontend, "10.96.0.10:80"));  // of its service, too
  EXPECT_EQ(relay->accepted(), 2);
  EXPECT_EQ(n2->Metric("qanat_connections_refused_total", {"waypoint_required"}), 0);

  // In plaintext from outside the mesh.
  EXPECT_FALSE(Talks(*outside, backend->At(7000)));
  EXPECT_TRUE(n2->Counts("qanat_connections_refused_total", {"waypoint_required"}, Ge(1)));
  // From a node whose proxy routes a service's calls as stock ones do.
  PodNet& stock = AddPod(5);
  Announce("stock", stock, "n3");
  Node& n3 = AddNode("n3", [](Config& config) { config.enforce_waypoint = false; });
  ASSERT_EQ(n3.Enrol("stock", stock), "");
  ASSERT_EQ(n3.agent().SnapshotSent(), "");
  EXPECT_FALSE(Talks(stock, "10.96.0.10:80"));
  EXPECT_TRUE(n3.Counts("qanat_connections_refused_total", {"denied_by_peer"}, Ge(1)));
  EXPECT_TRUE(Talks(stock, backend->At(8080)));  // its address leads through the waypoint
  EXPECT_EQ(relay->accepted(), 3);

  const auto why = [&](const std::string& identity) {
    const std::string answer =
        n2->Get("/debug/why/inbound?dst=" + backend->ip() + "&port=8080&src_identity=" + identity);
    return nlohmann::json::parse(answer.substr(answer.find("\r\n\r\n") + 4))["reason"]
        .get<std::string>();
  };
  EXPECT_EQ(why("spiffe://cluster.local/ns/shop/sa/frontend"), "waypoint_required");
  EXPECT_EQ(why(""), "waypoint_required");
  EXPECT_EQ(why("spiffe://cluster.local/ns/shop/sa/w"), "none");
}

TEST_F(WaypointTest, SwitchedOffItIsAsInStockProxies) {
  MakeMesh([](Config& config) { config.enforce_waypoint = false; });
  EXPECT_TRUE(Talks(*outside, backend->At(7000)));
  EXPECT_TRUE(n2->Counts("istio_tcp_connections_opened_total",
                         {"reporter=\"destination\"", "source_principal=\"unknown\""}, Ge(1)));
  // ... and over a tunnel, from a node whose proxy goes around the waypoint: no refusal of either.
  PodNet& stock = AddPod(5);
  Announce("stock", stock, "n3");
  Node& n3 = AddNode("n3", [](Config& config) { config.enforce_waypoint = false; });
  ASSERT_EQ(n3.Enrol("stock", stock), "");
  ASSERT_EQ(n3.agent().SnapshotSent(), "");
  EXPECT_TRUE(Talks(stock, "10.96.0.10:80"));
  EXPECT_EQ(app->accepted(), 1);
  EXPECT_EQ(n2->Metric("qanat_connections_refused_total"), 0);
  EXPECT_EQ(relay->accepted(), 0);
}

TEST_F(WaypointTest, InOnePassToo) {
  MakeMesh();
  // On the waypoint's node: a service that asks for it, and a neighbour that calls around it.
  PodNet& near = AddPod(6);
  auto strict = TestMesh::MakeService("strict", "10.96.0.40");
  Put(strict);
  Announce("near", near, "n1", [&](TestMesh::Workload& w) { TestMesh::Join(w, strict); });
  ASSERT_EQ(n1->Enrol("near", near), "");
  Server echo(near.netns(), near.At(8080), Server::Echo());
  // Until every worker knows the new pod the way is through its tunnel port.
  ASSERT_TRUE(Eventually([&] {
    return Talks(*frontend, near.At(8080)) &&
           n1->Metric("qanat_one_pass_connections_total", {"taken"}) >= 1;
  }));
  *strict.mutable_waypoint() = GatewayOf();
  strict.add_extensions()->set_name("qanat.io/require-waypoint");
  Put(strict);
  EXPECT_TRUE(Eventually([&] { return !Talks(*frontend, near.At(8080)); }));
  EXPECT_TRUE(n1->Counts("qanat_connections_refused_total", {"waypoint_required"}, Ge(1)));
  EXPECT_TRUE(n1->Counts("qanat_one_pass_connections_total", {"denied"}, Ge(1)));
  EXPECT_TRUE(Talks(*waypoint, near.At(8080)));
}

}  // namespace
}  // namespace qanat::ztunnel::test
