// SPDX-License-Identifier: Apache-2.0
// Every way from an application to another one.
#include <gmock/gmock.h>

#include <mutex>
#include <random>
#include <set>

#include "tests/integration/ztunnel/bed.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Eq;
using testing::HasSubstr;

constexpr const char* kFrontend = "spiffe://cluster.local/ns/shop/sa/frontend";
constexpr const char* kBackend = "spiffe://cluster.local/ns/shop/sa/backend";

std::string Random(size_t size) {
  std::mt19937 random(11);
  std::string out(size, '\0');
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

// frontend on n1, backend behind a service on the node that the test names.
class PathTest : public Bed {
 protected:
  void Make(const std::string& backend_node, Capture capture = Capture::kTproxy) {
    a = &AddPod(1, capture);
    b = &AddPod(2, capture);
    service = TestMesh::MakeService("backend", "10.96.0.10");
    Put(service);
    Announce("frontend", *a, "n1");
    Announce("backend", *b, backend_node,
             [&](TestMesh::Workload& w) { TestMesh::Join(w, service); });
    n1 = &AddNode("n1");
    ASSERT_EQ(n1->Enrol("frontend", *a), "");
    far = n1;
    if (backend_node != "n1") far = &AddNode(backend_node);
    ASSERT_EQ(far->Enrol("backend", *b), "");
    ASSERT_EQ(n1->agent().SnapshotSent(), "");
    if (far != n1) {
      ASSERT_EQ(far->agent().SnapshotSent(), "");
    }
  }
  Tcp Call(const std::string& to = "10.96.0.10:80") { return ConnectFrom(a->netns(), to); }

  PodNet* a = nullptr;
  PodNet* b = nullptr;
  Node* n1 = nullptr;
  Node* far = nullptr;
  TestMesh::Service service;
};

TEST_F(PathTest, ThroughATunnelToAnotherNode) {
  Make("n2");
  Server echo(b->netns(), b->At(8080), Server::Echo());
  Tcp tcp = Call();
  ASSERT_TRUE(tcp.connected());
  ASSERT_TRUE(tcp.Send("hello"));
  EXPECT_EQ(tcp.Read(5), "hello");

  // It is one connection with both identities at both ends while it lasts ...
  const std::string seen = far->Get("/debug/connections");
  EXPECT_THAT(seen, HasSubstr(kFrontend));
  EXPECT_THAT(seen, HasSubstr(kBackend));
  EXPECT_THAT(seen, HasSubstr("\"path\": \"hbone\""));
  EXPECT_EQ(n1->Metric("qanat_pool_tunnels", {"pool=\"direct\""}), 1);
  EXPECT_EQ(n1->Metric("qanat_pool_dials_total", {"pool=\"direct\""}), 1);
  EXPECT_EQ(n1->Metric("istio_tcp_sockets_open", {"reporter=\"source\""}), 1);
  EXPECT_EQ(far->Metric("istio_tcp_sockets_open", {"reporter=\"destination\""}), 1);
  // A tunnel and a connection on each side.
  for (Node* node : {n1, far}) {
    EXPECT_EQ(node->Metric("tokio_num_alive_tasks", {}), 2);
    EXPECT_GE(node->Metric("tokio_num_workers", {}), 1);
    EXPECT_GT(node->Metric("tokio_worker_park_count", {"worker=\"0\""}), 0);
    EXPECT_GT(node->Metric("tokio_worker_total_busy_duration_seconds_total", {"worker=\"0\""}), 0);
  }
  // ... and in the metrics afterwards.
  tcp.Finish();
  EXPECT_EQ(tcp.Next(), "eof");
  for (Node* node : {n1, far}) {
    EXPECT_TRUE(Eventually([&] {
      return node->Metric("istio_tcp_connections_closed_total",
                          {std::string("source_principal=\"") + kFrontend,
                           std::string("destination_principal=\"") + kBackend,
                           "connection_security_policy=\"mutual_tls\""}) == 1 &&
             node->Metric("tokio_num_alive_tasks", {}) == 1 &&
             node->Metric("istio_tcp_sockets_open", {}) == 0;
    }));
    EXPECT_TRUE(node->Counts("istio_tcp_received_bytes_total", {}, Eq(5)));
    EXPECT_TRUE(node->Counts("istio_tcp_sent_bytes_total", {}, Eq(5)));
  }
  EXPECT_TRUE(n1->Counts("istio_tcp_connections_opened_total", {"reporter=\"source\""}, Eq(1)));
  EXPECT_TRUE(
      far->Counts("istio_tcp_connections_opened_total", {"reporter=\"destination\""}, Eq(1)));
  EXPECT_EQ(n1->Metric("qanat_one_pass_connections_total"), 0);
}

TEST_F(PathTest, ThroughATunnelOverIpv6) {
  Make("n2");
  service.add_addresses()->set_address(IpBytes("fd96::10"));
  Put(service);
  Server echo(b->netns(), "[" + b->ip6() + "]:8080", Server::Echo());
  Tcp tcp = Call("[" + b->ip6() + "]:8080");
  ASSERT_TRUE(tcp.connected());
  tcp.Send("six");
  EXPECT_EQ(tcp.Read(3), "six");
}

TEST_F(PathTest, ManyShareATunnel) {
  Make("n2");
  Server echo(b->netns(), b->At(8080), Server::Echo());
  std::vector<Tcp> all;
  for (int i = 0; i < 200; ++i) all.push_back(Call());
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(all[static_cast<size_t>(i)].Send(std::to_string(i)));
  for (int i = 0; i < 200; ++i) {
    const std::string want = std::to_string(i);
    EXPECT_EQ(all[static_cast<size_t>(i)].Read(want.size()), want);
  }
  EXPECT_EQ(echo.accepted(), 200);
}

TEST_F(PathTest, ServerSpeaksFirst) {
  Make("n2");
  Server greeter(b->netns(), b->At(8080), [](Tcp& tcp, const std::string&) {
    tcp.Send("220 ready\n");
    tcp.Read(4);
    tcp.Send("bye");
  });
  Tcp tcp = Call();
  EXPECT_EQ(tcp.Read(10), "220 ready\n");
  tcp.Send("quit");
  EXPECT_EQ(tcp.Read(3), "bye");
  EXPECT_EQ(tcp.Next(), "eof");
  // Both count what the client says as received, and what the server says as sent.
  for (Node* node : {n1, far}) {
    EXPECT_TRUE(node->Counts("istio_tcp_received_bytes_total", {}, Eq(4)));
    EXPECT_TRUE(node->Counts("istio_tcp_sent_bytes_total", {}, Eq(13)));
  }
}

TEST_F(PathTest, HalfCloseBothWays) {
  Make("n2");
  // The server answers only after the client's end, and the client may go on after the server's.
  Server after_end(b->netns(), b->At(8080), [](Tcp& tcp, const std::string&) {
    const std::string all = tcp.Read(1 << 20);
    tcp.Send(std::to_string(all.size()));
  });
  Server ends_first(b->netns(), b->At(8081), [](Tcp& tcp, const std::string&) {
    tcp.Finish();
    const std::string all = tcp.Read(1 << 20);
    EXPECT_EQ(all, "still here");
  });
  Tcp tcp = Call();
  tcp.Send(std::string(100000, 'x'));
  tcp.Finish();
  EXPECT_EQ(tcp.Read(6), "100000");
  EXPECT_EQ(tcp.Next(), "eof");
  Tcp other = Call(b->At(8081));
  EXPECT_EQ(other.Next(), "eof");
  EXPECT_TRUE(other.Send("still here"));
  other.Finish();
}

TEST_F(PathTest, AResetStaysAReset) {
  for (const char* node : {"n2", "n1"}) {
    SCOPED_TRACE(node);
    nodes_.clear();
    pods_.clear();
    Make(node);
    std::atomic<bool> reset_seen{false};
    Server server(b->netns(), b->At(8080), [&](Tcp& tcp, const std::string&) {
      if (tcp.Read(5) == "abort") tcp.Reset();
    });
    Server watcher(b->netns(), b->At(8081), [&](Tcp& tcp, const std::string&) {
      tcp.Read(1);
      reset_seen = tcp.Next() == "reset";
    });
    Tcp tcp = Call();
    tcp.Send("abort");
    EXPECT_EQ(tcp.Next(), "reset");
    Tcp client = Call(b->At(8081));
    client.Send("x");
    usleep(200000);
    client.Reset();
    EXPECT_TRUE(Eventually([&] { return reset_seen.load(); }));
  }
}

TEST_F(PathTest, BulkArrivesExactly) {
  const std::string data = Random(48 << 20);
  for (const char* node : {"n2", "n1"}) {
    SCOPED_TRACE(node);
    nodes_.clear();
    pods_.clear();
    Make(node);
    Server echo(b->netns(), b->At(8080), Server::Echo());
    Tcp tcp = Call();
    ExpectEcho(tcp, data);
  }
}

TEST_F(PathTest, OnePassOnTheSameNode) {
  Make("n1");
  std::string peer;
  Server server(b->netns(), b->At(8080), [&](Tcp& tcp, const std::string& from) {
    peer = from;
    tcp.Send(tcp.Read(5));
  });
  Tcp tcp = Call();
  tcp.Send("hello");
  EXPECT_EQ(tcp.Read(5), "hello");
  EXPECT_EQ(tcp.Next(), "eof");
  tcp.Finish();
  EXPECT_EQ(peer, a->ip());  // the application sees its client without any spoofing
  EXPECT_TRUE(n1->Counts("qanat_one_pass_connections_total", {"taken"}, Eq(1)));
  // Both sides are reported, with both identities, and it is not called encrypted.
  for (const char* reporter : {"source", "destination"}) {
    EXPECT_TRUE(Eventually([&] {
      return n1->Metric("istio_tcp_connections_closed_total",
                        {std::string("reporter=\"") + reporter,
                         std::string("source_principal=\"") + kFrontend,
                         std::string("destination_principal=\"") + kBackend,
                         "connection_security_policy=\"unknown\""}) == 1;
    })) << reporter;
  }
}

TEST_F(PathTest, OnePassNotWhenAddressesAreRewritten) {
  Make("n1", Capture::kRedirect);
  Server echo(b->netns(), b->At(8080), Server::Echo());
  Tcp tcp = Call();
  tcp.Send("hello");
  EXPECT_EQ(tcp.Read(5), "hello");
  EXPECT_EQ(n1->Metric("qanat_one_pass_connections_total"), 0);
  EXPECT_THAT(n1->Get("/debug/connections"), HasSubstr("\"path\": \"hbone\""));
}

// A pod that calls a service whose endpoint is itself: in one pass, and through a tunnel to the own
// address where there is none. The application sees the pod, as without a mesh.
TEST_F(PathTest, APodCallsItsOwnService) {
  for (const Capture capture : {Capture::kTproxy, Capture::kRedirect}) {
    SCOPED_TRACE(capture == Capture::kTproxy ? "one pass" : "a tunnel");
    nodes_.clear();
    pods_.clear();
    Make("n1", capture);
    service.add_addresses()->set_address(IpBytes("fd93::ff10"));
    Put(service);
    std::mutex mutex;
    std::set<std::string> peers;
    const auto serve = [&](Tcp& tcp, const std::string& from) {
      {
        std::lock_guard lock(mutex);
        peers.insert(from);
      }
      Server::Echo()(tcp, from);
    };
    Server four(b->netns(), b->At(8080), serve);
    Server six(b->netns(), "[" + b->ip6() + "]:8080", serve);
    const std::string data = Random(1 << 20);
    for (const char* to : {"10.96.0.10:80", "[fd93::ff10]:80"}) {
      ASSERT_TRUE(Eventually([&] {
        Tcp tcp = ConnectFrom(b->netns(), to);
        return tcp.Send("x") && tcp.Read(1) == "x";
      })) << to;
      Tcp tcp = ConnectFrom(b->netns(), to);
      ExpectEcho(tcp, data);
      std::vector<Tcp> all;
      for (int i = 0; i < 50; ++i) all.push_back(ConnectFrom(b->netns(), to));
      for (Tcp& one : all) EXPECT_TRUE(one.Send("y"));
      for (Tcp& one : all) EXPECT_EQ(one.Read(1), "y") << to;
    }
    EXPECT_THAT(peers, testing::UnorderedElementsAre(b->ip(), b->ip6()));
    const bool one_pass = capture == Capture::kTproxy;
    EXPECT_EQ(n1->Metric("qanat_one_pass_connections_total", {"taken"}) >= 102, one_pass);
    for (const char* reporter : {"source", "destination"}) {
      EXPECT_TRUE(n1->Counts(
          "istio_tcp_connections_opened_total",
          {std::string("reporter=\"") + reporter, std::string("source_principal=\"") + kBackend,
           std::string("destination_principal=\"") + kBackend,
           one_pass ? "security_policy=\"unknown\"" : "security_policy=\"mutual_tls\""},
          testing::Ge(102)));
    }
    // It is nobody special to itself.
    auto deny = TestMesh::MakePolicy("not-itself", istio::security::DENY);
    auto* match = deny.add_rules()->add_clauses()->add_matches();
    match->add_principals()->set_exact(std::string(kBackend).substr(9));
    Put(deny);
    EXPECT_TRUE(Eventually([&] {
      Tcp tcp = ConnectFrom(b->netns(), "10.96.0.10:80");
      return tcp.Next(1000) == "reset";
    }));
    control_plane_.Remove("Authorization", "shop/not-itself");
  }
}

TEST_F(PathTest, UnknownDestinationsPassAndPlaintextComesIn) {
  Make("n2");
  PodNet& outside = AddPod(9, Capture::kNone);
  Server echo(outside.netns(), outside.At(5000), Server::Echo());
  Tcp tcp = Call(outside.At(5000));
  tcp.Send("out");
  EXPECT_EQ(tcp.Read(3), "out");
  EXPECT_THAT(n1->Get("/debug/connections"), HasSubstr("\"path\": \"passthrough\""));

  Server inside(b->netns(), b->At(7000), Server::Echo());
  Tcp in = ConnectFrom(outside.netns(), b->At(7000));
  in.Send("in");
  EXPECT_EQ(in.Read(2), "in");
  EXPECT_TRUE(far->Counts("istio_tcp_connections_opened_total",
                          {"reporter=\"destination\"", "source_principal=\"unknown\""}, Eq(1)));
}

TEST_F(PathTest, AClosedPortIsAReset) {
  Make("n2");
  Tcp tcp = Call(b->At(8099));
  ASSERT_TRUE(tcp.connected());
  EXPECT_EQ(tcp.Next(), "reset");
  EXPECT_TRUE(far->Counts("qanat_connections_refused_total", {"connect_failed"}, Eq(1)));
  EXPECT_TRUE(Eventually(
      [&] { return n1->Metric("qanat_connections_refused_total", {"refused_by_peer"}) == 1; }));
}

TEST_F(PathTest, CertificatesAreRenewedUnderLoad) {
  // Half of it is what a machine may stop for between a renewal and the old one's end.
  control_plane_.certificate_lifetime = std::chrono::seconds(8);
  Make("n2");
  Server echo(b->netns(), b->At(8080), Server::Echo());
  Tcp old = Call();
  old.Send("1");
  EXPECT_EQ(old.Read(1), "1");
  const auto begin = std::chrono::steady_clock::now();
  int calls = 0;
  while (std::chrono::steady_clock::now() - begin < std::chrono::seconds(10)) {
    Tcp tcp = Call();
    ASSERT_TRUE(tcp.Send("x"));
    ASSERT_EQ(tcp.Read(1), "x") << "call " << calls;
    ++calls;
    usleep(20000);
  }
  EXPECT_GT(calls, 20);
  EXPECT_GE(control_plane_.Issued(kFrontend).size(), 2u);
  old.Send("2");  // a connection outlives the certificate that it began with
  EXPECT_EQ(old.Read(1), "2");
}

}  // namespace
}  // namespace qanat::ztunnel::test
