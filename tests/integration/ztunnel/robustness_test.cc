// SPDX-License-Identifier: Apache-2.0
// Garbage on every port, peers that lie, reconnects, readiness and the end.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <future>

#include "common/hbone/client_session.h"
#include "common/tls/tls_transport.h"
#include "tests/integration/ztunnel/bed.h"
#include "ztunnel/admin/istioctl_types_for_test.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Eq;
using testing::HasSubstr;

class RobustnessTest : public Bed {
 protected:
  void SetUp() override {
    frontend = &AddPod(1);
    backend = &AddPod(2);
    outside = &AddPod(9, Capture::kNone);
    Announce("frontend", *frontend, "n1");
    Announce("backend", *backend, "n2");
    n1 = &AddNode("n1");
    n2 = &AddNode("n2");
    ASSERT_EQ(n1->Enrol("frontend", *frontend), "");
    ASSERT_EQ(n2->Enrol("backend", *backend), "");
    ASSERT_EQ(n1->agent().SnapshotSent(), "");
    ASSERT_EQ(n2->agent().SnapshotSent(), "");
    echo = std::make_unique<Server>(backend->netns(), backend->At(8080), Server::Echo());
  }
  bool Talks() {
    Tcp tcp = ConnectFrom(frontend->netns(), backend->At(8080));
    return tcp.connected() && tcp.Send("x") && tcp.Read(1) == "x";
  }
  // One CONNECT over a tunnel made by hand, as a peer of another kind would. Returns the status,
  // 0 when there was no answer, -1 when TLS failed.
  int ConnectByHand(tls::TlsContextPtr context, const std::string& authority) {
    event::EventLoop loop;
    int status = -1;
    bool over = false;
    std::unique_ptr<hbone::ClientSession> session;
    std::unique_ptr<hbone::PendingConnect> pending;
    net::ConnectOptions to;
    to.to = At(backend->At(15008));
    to.netns = &outside->netns();
    tls::HandshakeOptions options;
    options.peer.uris = {"spiffe://cluster.local/ns/shop/sa/backend"};
    tls::TlsConnector connector(loop, to, context, options, [&](Result<tls::TlsConnection> made) {
      if (!made) {
        over = true;
        return;
      }
      hbone::ClientSession::Events events;
      events.on_closed = [&](const hbone::CloseReason&) { over = true; };
      session = std::make_unique<hbone::ClientSession>(std::move(made->transport),
                                                       hbone::SessionOptions(), events);
      pending = session->Connect({authority, {}}, [&](hbone::ClientSession::ConnectResult r) {
        status = r ? r->status : 0;
        over = true;
      });
    });
    for (int i = 0; i < 6000 && !over; ++i) loop.RunOnce(std::chrono::milliseconds(10));
    pending.reset();
    session.reset();
    return status;
  }

  PodNet *frontend, *backend, *outside;
  Node *n1, *n2;
  std::unique_ptr<Server> echo;
};

TEST_F(RobustnessTest, GarbageOnTheProxyPorts) {
  const std::string garbage = "GET / HTTP/1.1\r\n\r\n" + std::string(100000, '\xff');
  for (int round = 0; round < 20; ++round) {
    for (int port : {15001, 15006, 15008}) {
      Tcp tcp = ConnectFrom(outside->netns(), backend->At(port));
      ASSERT_TRUE(tcp.connected());
      tcp.Send(garbage);
      EXPECT_THAT(tcp.Next(), testing::AnyOf("eof", "reset", "data")) << port;
    }
  }
  EXPECT_TRUE(Eventually(
      [&] { return n2->Metric("qanat_inbound_tunnel_errors_total", {"tls_failure"}) == 20; }));
  EXPECT_TRUE(n2->Counts("qanat_connections_refused_total", {"source", "self_call"}, Eq(20)));
  EXPECT_TRUE(n2->Counts("qanat_connections_refused_total", {"destination", "self_call"}, Eq(20)));
  EXPECT_TRUE(Talks());
}

TEST_F(RobustnessTest, TunnelsByHand) {
  const auto known = control_plane_.ContextFor("spiffe://cluster.local/ns/bank/sa/teller");
  EXPECT_EQ(ConnectByHand(known, backend->At(8080)), 200);
  EXPECT_EQ(ConnectByHand(known, frontend->At(8080)), 400);  // not this workload's address
  EXPECT_EQ(ConnectByHand(known, backend->At(15008)), 503);  // the proxy's own port
  EXPECT_EQ(ConnectByHand(known, backend->At(9)), 503);      // nobody listens
  EXPECT_EQ(ConnectByHand(known, "nonsense"), 400);
  auto deny = TestMesh::MakePolicy("deny", istio::security::DENY);
  deny.add_rules()->add_clauses()->add_matches()->add_namespaces()->set_exact("bank");
  Put(deny);
  EXPECT_TRUE(Eventually([&] { return ConnectByHand(known, backend->At(8080)) == 401; }));
}

TEST_F(RobustnessTest, PeersWithoutTheRightCertificate) {
  // With TLS 1.3 the client learns of the refusal after its own handshake: no answer comes.
  const auto foreign =
      control_plane_.ForeignContextFor("spiffe://cluster.local/ns/shop/sa/frontend");
  EXPECT_LE(ConnectByHand(foreign, backend->At(8080)), 0);
  const auto other_domain = control_plane_.ContextFor("spiffe://evil.example/ns/shop/sa/frontend");
  EXPECT_LE(ConnectByHand(other_domain, backend->At(8080)), 0);
  EXPECT_TRUE(Eventually([&] { return n2->Metric("qanat_inbound_tunnel_errors_total", {}) >= 2; }));
  EXPECT_EQ(echo->accepted(), 0);
}

// The far end has another identity than the control plane announced for that address.
TEST_F(RobustnessTest, AnImpostorAtTheFarEndGetsNothing) {
  Announce("backend", *backend, "n2",
           [](TestMesh::Workload& w) { w.set_service_account("somebody-else"); });
  EXPECT_TRUE(Eventually(
      [&] {
        Tcp tcp = ConnectFrom(frontend->netns(), backend->At(8080));
        tcp.Send("x");
        return tcp.Next() == "reset";
      },
      20000));
}

TEST_F(RobustnessTest, GarbageFromTheAgent) {
  EXPECT_THAT(n1->agent().SendRaw("\xff\xff garbage"), HasSubstr("failure to read message"));
  ASSERT_TRUE(n1->agent().Accept());  // it comes back
  EXPECT_TRUE(n1->Counts("qanat_zds_protocol_errors_total", {}, Eq(1)));
  EXPECT_TRUE(Talks());  // the pods were kept meanwhile
  EXPECT_THAT(n1->Ready(), testing::AllOf(HasSubstr(" 200 "), HasSubstr("agent is away")));
  // What the new connection does not name is removed at its end.
  EXPECT_EQ(n1->agent().SnapshotSent(), "");
  EXPECT_TRUE(Eventually([&] { return n1->Metric("workload_manager_active_proxy_count") == 0; }));
  EXPECT_THAT(n1->Ready(), testing::EndsWith("\r\n\r\nready\n"));
}

// Kubernetes ends a proxy that is not ready as soon as a newer one exists, even if that one cannot
// start: while its agent is away, the pods that it serves need it the more.
TEST_F(RobustnessTest, WhoServesStaysReadyWithoutItsAgent) {
  const auto says = [](Node* node, const std::string& status, const std::string& text) {
    return Eventually([&] {
      const std::string answer = node->Ready();
      return answer.starts_with("HTTP/1.1 " + status) && answer.ends_with(text);
    });
  };
  const std::string away =
      "the node agent is away (zds): pods that are served go on, others wait for it\n";
  EXPECT_TRUE(says(n1, "200", "\r\n\r\nready\n"));
  EXPECT_TRUE(n1->Counts("qanat_zds_connected", {}, Eq(1)));
  n1->agent().GoAway();
  EXPECT_TRUE(says(n1, "200", "\r\n\r\nready\n" + away));
  EXPECT_TRUE(n1->Counts("qanat_zds_connected", {}, Eq(0)));
  EXPECT_TRUE(Talks());
  // A connection is not enough, it has to tell its pods.
  n1->agent().ComeBack();
  ASSERT_TRUE(n1->agent().Accept());
  ASSERT_EQ(n1->Enrol("frontend", *frontend), "");
  EXPECT_TRUE(says(n1, "200", "\r\n\r\nready\n" + away));
  EXPECT_EQ(n1->Metric("qanat_zds_connected"), 0);
  ASSERT_EQ(n1->agent().SnapshotSent(), "");
  EXPECT_TRUE(says(n1, "200", "\r\n\r\nready\n"));
  EXPECT_TRUE(n1->Counts("qanat_zds_connected", {}, Eq(1)));
  EXPECT_TRUE(Talks());
  // One that was never told its pods serves nobody: it is not ready.
  Node& n4 = AddNode("n4");
  EXPECT_TRUE(says(&n4, "500", "not ready, pending: zds\n"));
  n4.agent().GoAway();
  ASSERT_EQ(usleep(300000), 0);
  EXPECT_TRUE(says(&n4, "500", "not ready, pending: zds\n"));
  EXPECT_EQ(n4.Metric("qanat_zds_connected"), 0);
  // Nor is one that ends.
  Tcp tcp = ConnectFrom(frontend->netns(), backend->At(8080));
  ASSERT_TRUE(tcp.Send("x"));
  ASSERT_EQ(tcp.Read(1), "x");
  n2->agent().GoAway();
  EXPECT_TRUE(says(n2, "200", away));
  n2->Drain();
  EXPECT_TRUE(says(n2, "500", "not ready, pending: draining\n" + away));
}

TEST_F(RobustnessTest, GarbageOnTheAdminPort) {
  const auto here = netns::NetNs::Current().value();
  for (const std::string& garbage :
       {std::string(200000, 'a'), std::string("\x16\x03\x01 tls?"), std::string("POST /logging"),
        std::string("GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n")}) {
    Tcp tcp = ConnectFrom(here, n1->admin_address().ToString());
    tcp.Send(garbage);
    tcp.Finish();
    EXPECT_NE(tcp.Next(), "nothing");
  }
  EXPECT_THAT(n1->Get("/config_dump"), HasSubstr("\"workloads\""));
  EXPECT_THAT(n1->Get("/quitquitquit"), HasSubstr("405"));
  EXPECT_THAT(n1->Get("/logging"),
              testing::AllOf(HasSubstr("405"), HasSubstr("Invalid HTTP method\n usage: POST")));
  EXPECT_THAT(n1->Get("/logging?level=relay:debug", "POST"),
              HasSubstr("current log level is info,relay=debug\n"));
  EXPECT_THAT(n1->Get("/logging?level=zds:warn", "POST"),  // beside what was set before
              HasSubstr("current log level is info,relay=debug,zds=warn\n"));
  EXPECT_THAT(n1->Get("/logging?level=loud", "POST"),
              testing::AllOf(HasSubstr("400"), HasSubstr("Invalid level provided: loud\nusage:")));
  EXPECT_THAT(n1->Get("/logging", "POST"), HasSubstr("relay=debug"));
  EXPECT_THAT(n1->Get("/logging?reset&level=ca:warn", "POST"),
              HasSubstr("current log level is info,ca=warn\n"));
  EXPECT_THAT(n1->Get("/logging?reset", "POST"), HasSubstr("current log level is info\n"));
}

// With connections both ways, certificates, and what istiod makes of STRICT.
TEST_F(RobustnessTest, StockIstioctlCanReadTheDump) {
  auto strict =
      TestMesh::MakePolicy("istio_converted_static_strict", istio::security::DENY, "istio-system");
  strict.set_scope(istio::security::WORKLOAD_SELECTOR);
  strict.add_rules()->add_clauses()->add_matches()->add_not_principals()->mutable_presence();
  Put(strict);
  Announce("backend", *backend, "n2", [](TestMesh::Workload& w) {
    w.add_authorization_policies("istio-system/istio_converted_static_strict");
  });
  ASSERT_TRUE(Eventually([&] { return Talks(); }));
  Tcp tcp = ConnectFrom(frontend->netns(), backend->At(8080));
  tcp.Send("x");
  tcp.Read(1);
  for (Node* node : {n1, n2}) {
    const std::string answer = node->Get("/config_dump");
    const auto dump = nlohmann::json::parse(answer.substr(answer.find("\r\n\r\n") + 4));
    EXPECT_THAT(WhatIstioctlCannotRead(dump), testing::IsEmpty());
    EXPECT_EQ(dump["workloads"].size(), 2u);
    EXPECT_EQ(dump["policies"].size(), 1u);
    EXPECT_EQ(dump["certificates"][0]["state"], "Available");
    const auto& state = dump["workloadState"][node == n1 ? "uid-frontend" : "uid-backend"];
    EXPECT_EQ(state["state"], "Up");
    EXPECT_EQ(state["info"]["trustDomain"], "cluster.local");
    EXPECT_GE(state["connections"][node == n1 ? "outbound" : "inbound"].size(), 1u);
    // Certificates are in it as base64 of PEM: "PRIVATE KEY" wherever it would stand.
    for (const char* key : {"PRIVATE", "UFJJVkFURSBL", "BSSVZBVEUg", "QUklWQVRFIEtF"}) {
      EXPECT_EQ(answer.find(key), answer.npos);
    }
  }
}

TEST_F(RobustnessTest, ARemovedPodEndsItsConnections) {
  Tcp tcp = ConnectFrom(frontend->netns(), backend->At(8080));
  tcp.Send("x");
  ASSERT_EQ(tcp.Read(1), "x");
  ASSERT_EQ(n2->agent().Del("uid-backend"), "");
  EXPECT_EQ(tcp.Next(), "reset");
  EXPECT_TRUE(n2->Counts("workload_manager_proxies_stopped_total", {}, Eq(1)));
  EXPECT_EQ(n2->Metric("workload_manager_active_proxy_count"), 0);
}

// The node agent knows it, the control plane has never said who it is: it is nobody, and nothing of
// it goes on, not plainly either.
TEST_F(RobustnessTest, APodThatIsNeverAnnouncedGetsNowhere) {
  PodNet& ghost = AddPod(4);
  ASSERT_EQ(n1->Enrol("ghost", ghost), "");
  Server plain(outside->netns(), outside->At(8080), Server::Echo());
  std::vector<Tcp> calls;
  for (PodNet* to : {backend, outside}) {
    calls.push_back(ConnectFrom(ghost.netns(), to->At(8080)));
    calls.back().Send("x");
  }
  EXPECT_EQ(calls.front().Next(2000), "nothing");  // it may still be announced
  for (Tcp& call : calls) EXPECT_EQ(call.Next(), "reset");
  EXPECT_TRUE(n1->Counts("qanat_connections_refused_total",
                         {"reporter=\"source\"", "reason=\"source_unknown\""}, Eq(2)));
  EXPECT_EQ(echo->accepted(), 0);
  EXPECT_EQ(plain.accepted(), 0);
}

TEST_F(RobustnessTest, APodThatCannotBeServedIsRefusedAndTriedAgain) {
  // Somebody without SO_REUSEPORT sits on the port.
  PodNet& taken = AddPod(4);
  auto blocker = std::make_unique<Server>(taken.netns(), taken.At(15008), Server::Echo());
  EXPECT_THAT(n1->Enrol("taken", taken), HasSubstr("15008"));
  EXPECT_THAT(n1->Ready(), HasSubstr("pending pods"));
  EXPECT_EQ(n1->Metric("workload_manager_pending_proxy_count"), 1);
  EXPECT_EQ(n1->Metric("workload_manager_proxies_started_total"), 1);
  blocker.reset();
  EXPECT_TRUE(Eventually(
      [&] {
        return n1->Ready().find("ready\n") != std::string::npos &&
               n1->Ready().find("500") == std::string::npos;
      },
      30000));
  EXPECT_EQ(n1->Metric("workload_manager_pending_proxy_count"), 0);
  EXPECT_EQ(n1->Metric("workload_manager_active_proxy_count"), 2);
  EXPECT_EQ(n1->Metric("workload_manager_proxies_started_total"), 2);
}

TEST_F(RobustnessTest, GracefulEnd) {
  Tcp tcp = ConnectFrom(frontend->netns(), backend->At(8080));
  tcp.Send("before");
  ASSERT_EQ(tcp.Read(6), "before");
  n2->Drain();
  EXPECT_TRUE(Eventually([&] { return n2->Ready().find("draining") != std::string::npos; }));
  // What goes on goes on, new connections find no listener ...
  tcp.Send("after");
  EXPECT_EQ(tcp.Read(5), "after");
  EXPECT_TRUE(
      Eventually([&] { return !ConnectFrom(outside->netns(), backend->At(15008)).connected(); }));
  EXPECT_FALSE(n2->WaitStopped(200));
  // ... and it ends when the last one has.
  tcp.Finish();
  EXPECT_EQ(tcp.Next(), "eof");
  EXPECT_TRUE(n2->WaitStopped(30000));
}

TEST_F(RobustnessTest, TheEndHasADeadline) {
  Tcp tcp = ConnectFrom(frontend->netns(), backend->At(8080));
  tcp.Send("x");
  ASSERT_EQ(tcp.Read(1), "x");
  EXPECT_THAT(n1->Get("/quitquitquit", "POST"), HasSubstr(" 200 "));
  EXPECT_TRUE(n1->WaitStopped(30000));
  EXPECT_EQ(tcp.Next(), "reset");
}

TEST_F(RobustnessTest, WhoSaysItTwiceWaitsForNobody) {
  PodNet& pod = AddPod(4);
  Announce("patient", pod, "n4");
  Node& n4 = AddNode("n4", [](Config& c) { c.termination_deadline = std::chrono::minutes(10); });
  ASSERT_EQ(n4.Enrol("patient", pod), "");
  ASSERT_EQ(n4.agent().SnapshotSent(), "");
  Tcp tcp;
  ASSERT_TRUE(Eventually([&] {
    tcp = ConnectFrom(pod.netns(), backend->At(8080));
    return tcp.Send("x") && tcp.Read(1) == "x";
  }));
  n4.Drain();
  EXPECT_FALSE(n4.WaitStopped(300));
  n4.Drain();
  EXPECT_TRUE(n4.WaitStopped(30000));
  EXPECT_EQ(tcp.Next(), "reset");
}

TEST_F(RobustnessTest, TheAdminPortIsOnBothLoopbacks) {
  const auto here = netns::NetNs::Current().value();
  for (const char* loopback : {"127.0.0.1", "[::1]"}) {
    Tcp tcp = ConnectFrom(here, fmt::format("{}:{}", loopback, n1->admin_address().port()));
    ASSERT_TRUE(tcp.connected()) << loopback;
    tcp.Send("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    EXPECT_EQ(tcp.Read(12), "HTTP/1.1 200") << loopback;
  }
}

TEST_F(RobustnessTest, TheCpuProfileIsServed) {
  EXPECT_THAT(n1->Get("/debug/pprof/profile?seconds=1&frequency=200"),
              testing::AllOf(HasSubstr(" 200 "), HasSubstr("application/octet-stream"),
                             HasSubstr("nanoseconds")));
  for (const char* wrong : {"seconds=0", "seconds=301", "seconds=1&frequency=0",
                            "seconds=1&frequency=1001", "seconds=soon"}) {
    EXPECT_THAT(n1->Get(std::string("/debug/pprof/profile?") + wrong), HasSubstr(" 400 "));
  }
}

}  // namespace
}  // namespace qanat::ztunnel::test
