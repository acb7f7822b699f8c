// SPDX-License-Identifier: Apache-2.0
// Calls of a service in another network: through its east-west gateway, which sees ciphertext only,
// and by inner tunnels that are used again.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <future>
#include <mutex>
#include <thread>

#include "common/hbone/server_session.h"
#include "common/net/socket.h"
#include "common/tls/tls_transport.h"
#include "tests/integration/ztunnel/bed.h"
#include "ztunnel/proxy/relay.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Each;
using testing::Eq;
using testing::Ge;
using testing::SizeIs;

// Takes HBONE at 15008 and passes each CONNECT's bytes on to `to`, as they are.
class EastWestGateway final : public Relay::Owner {
 public:
  EastWestGateway(const PodNet& pod, tls::TlsContextPtr context, std::string to)
      : netns_(pod.netns()), context_(std::move(context)), to_(std::move(to)) {
    net::ListenOptions listen;
    listen.address = net::SocketAddress::Parse(pod.At(15008)).value();
    listen.netns = &netns_;
    Fd fd = net::Listen(listen).value();
    Run([&] {
      acceptor_ = std::make_unique<net::Acceptor>(
          thread_.loop(), std::move(fd),
          [this](Fd accepted, net::SocketAddress) { Accept(std::move(accepted)); });
    });
  }
  ~EastWestGateway() {
    Run([&] {
      acceptor_.reset();
      relays_.clear();
      connectors_.clear();
      sessions_.clear();
      handshakes_.clear();
    });
    Run([] {});  // what was deferred is gone
  }
  std::vector<std::string> authorities() {
    std::lock_guard lock(mutex_);
    return authorities_;
  }

 private:
  void Run(const std::function<void()>& task) {
    std::promise<void> done;
    thread_.loop().Post([&] {
      task();
      done.set_value();
    });
    done.get_future().wait();
  }
  void Accept(Fd fd) {
    tls::HandshakeOptions options;
    options.role = tls::Role::kServer;
    handshakes_.push_back(std::make_unique<tls::TlsHandshake>(
        net::MakeSocketTransport(thread_.loop(), std::move(fd)), context_, options,
        [this](Result<tls::TlsConnection> result) {
          if (!result) return;
          hbone::ServerSession::Events events;
          events.on_connect = [this](const hbone::InboundConnect& request,
                                     hbone::Responder responder) {
            PassOn(request, std::move(responder));
          };
          events.on_closed = [](const hbone::CloseReason&) {};
          sessions_.push_back(std::make_unique<hbone::ServerSession>(
              std::move(result->transport), hbone::SessionOptions{}, std::move(events)));
        }));
  }
  void OnRelayEnd(const Relay::Result&) override {}
  void PassOn(const hbone::InboundConnect& request, hbone::Responder responder) {
    {
      std::lock_guard lock(mutex_);
      authorities_.push_back(request.authority);
    }
    net::ConnectOptions options;
    options.to = net::SocketAddress::Parse(to_).value();
    options.netns = &netns_;
    auto held = std::make_shared<hbone::Responder>(std::move(responder));
    connectors_.push_back(
        std::make_unique<net::Connector>(thread_.loop(), options, [this, held](Result<Fd> fd) {
          if (!fd) return held->Reject(503);
          auto stream = held->Accept();
          if (stream == nullptr) return;
          relays_.push_back(std::make_unique<Relay>(
              shared_, std::move(stream), net::MakeSocketTransport(thread_.loop(), std::move(*fd)),
              Relay::Counters{}, *this));
          relays_.back()->Start();
        }));
  }

  const netns::NetNs& netns_;
  tls::TlsContextPtr context_;
  const std::string to_;
  std::mutex mutex_;  // guards authorities_
  std::vector<std::string> authorities_;
  event::LoopThread thread_{"eastwest"};
  RelayShared shared_;
  std::unique_ptr<net::Acceptor> acceptor_;
  std::vector<std::unique_ptr<tls::TlsHandshake>> handshakes_;
  std::vector<std::unique_ptr<hbone::ServerSession>> sessions_;
  std::vector<std::unique_ptr<net::Connector>> connectors_;
  std::vector<std::unique_ptr<Relay>> relays_;
};

// frontend on n1, in network "near"; backend on n2, in network "far" behind the gateway.
class NetworkTest : public Bed {
 protected:
  void SetUp() override {
    frontend = &AddPod(1);
    backend = &AddPod(2);
    other = &AddPod(3);
    gateway_pod = &AddPod(4, Capture::kNone);
    service = TestMesh::MakeService("backend", "10.96.0.10");
    service.mutable_addresses(0)->set_network("near");
    Put(service);
    Announce("frontend", *frontend, "n1", [](TestMesh::Workload& w) { w.set_network("near"); });
    const auto far = [](TestMesh::Workload& w) { w.set_network("far"); };
    Announce("eastwest", *gateway_pod, "", far);
    Announce("other", *other, "n2", far);
    Announce("backend", *backend, "n2", [&](TestMesh::Workload& w) {
      far(w);
      TestMesh::Join(w, service);
      w.mutable_network_gateway()->mutable_address()->set_network("far");
      w.mutable_network_gateway()->mutable_address()->set_address(IpBytes(gateway_pod->ip()));
    });
    n1 = &AddNode("n1", [this](Config& config) { Near(config); });
    n2 = &AddNode("n2", [](Config& config) { config.network = "far"; });
    ASSERT_EQ(n1->Enrol("frontend", *frontend), "");
    ASSERT_EQ(n1->agent().SnapshotSent(), "");
    ASSERT_EQ(n2->Enrol("backend", *backend), "");
    ASSERT_EQ(n2->Enrol("other", *other), "");
    ASSERT_EQ(n2->agent().SnapshotSent(), "");
  }
  ~NetworkTest() override { std::remove(socket_.c_str()); }
  void Near(Config& config) const {
    config.node_name = "n1";
    config.network = "near";
    config.takeover_socket = socket_;
  }
  // Another process of n1 takes over from the present one, which ends.
  void TakeOver(const std::string& name) {
    Node& next = AddNode(name, [this](Config& config) { Near(config); });
    ASSERT_EQ(next.Enrol("frontend", *frontend), "");
    ASSERT_EQ(next.agent().SnapshotSent(), "");
    ASSERT_TRUE(Eventually([&] { return next.Ready().find("ready\n") != std::string::npos; }))
        << next.Ready();
    EXPECT_EQ(Live(*n1), 0u);
    nodes_.erase(std::find_if(nodes_.begin(), nodes_.end(),
                              [&](const auto& node) { return node.get() == n1; }));
    n1 = &next;
  }
  // Connections through both tunnels that a proxy has.
  static size_t Live(Node& node) {
    const std::string all = node.Get("/debug/connections");
    size_t count = 0;
    for (size_t at = 0; (at = all.find("double-hbone", at)) != std::string::npos; ++at) ++count;
    return count;
  }
  void StartGateway(const std::string& account, const PodNet& to) {
    gateway = std::make_unique<EastWestGateway>(
        *gateway_pod, control_plane_.ContextFor("spiffe://cluster.local/ns/shop/sa/" + account),
        to.At(15008));
  }
  Tcp Call() { return ConnectFrom(frontend->netns(), "10.96.0.10:80"); }

  PodNet *frontend = nullptr, *backend = nullptr, *other = nullptr, *gateway_pod = nullptr;
  Node *n1 = nullptr, *n2 = nullptr;
  TestMesh::Service service;
  std::unique_ptr<EastWestGateway> gateway;
  const std::string socket_ = fmt::format("/tmp/qzt-{}-network.sock", getpid());
};

TEST_F(NetworkTest, ManyCallsShareAnInnerTunnel) {
  StartGateway("eastwest", *backend);
  Server echo(backend->netns(), backend->At(8080), Server::Echo());
  std::vector<Tcp> all;
  for (int i = 0; i < 40; ++i) {
    all.push_back(Call());
    ASSERT_TRUE(all.back().Send(std::to_string(i)));
  }
  for (int i = 0; i < 40; ++i) {
    const std::string want = std::to_string(i);
    EXPECT_EQ(all[static_cast<size_t>(i)].Read(want.size()), want);
  }
  EXPECT_EQ(echo.accepted(), 40);
  // At most one for each of the two workers, asked for by the service's name.
  const auto asked = gateway->authorities();
  EXPECT_THAT(asked, SizeIs(testing::Le(2u)));
  EXPECT_THAT(asked, Each(Eq("backend.shop.svc.cluster.local:80")));
  EXPECT_THAT(n1->Get("/debug/connections"), testing::HasSubstr("\"path\": \"double-hbone\""));
  // End and reset stay what they are through both tunnels.
  all[0].Finish();
  EXPECT_EQ(all[0].Next(), "eof");
  for (Tcp& tcp : all) tcp.Close();
  // The far end sees the caller's own identity, and does not take the gateway for it.
  const std::vector<std::string> labels = {"reporter=\"destination\"",
                                           "source_principal=\"spiffe://cluster.local/ns/shop/sa/"
                                           "frontend\"",
                                           "source_workload=\"unknown\""};
  EXPECT_TRUE(n2->Counts("istio_tcp_connections_opened_total", labels, Eq(40)));
  EXPECT_TRUE(n2->Counts("qanat_forwarded_network_ignored_total", {}, Eq(40)));
}

TEST_F(NetworkTest, BulkArrivesExactly) {
  StartGateway("eastwest", *backend);
  Server echo(backend->netns(), backend->At(8080), Server::Echo());
  std::string data(8 << 20, '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 7 + i / 251);
  Tcp tcp = Call();
  ExpectEcho(tcp, data);
}

// Both tunnels go from process to process, in the middle of whatever they carry.
TEST_F(NetworkTest, LiveCallsOutliveTheirProxy) {
  StartGateway("eastwest", *backend);
  Server echo(backend->netns(), backend->At(8080), Server::Echo());
  std::atomic<bool> stop{false};
  std::vector<std::thread> busy;
  std::atomic<int> rounds{0};
  for (const size_t size : {size_t{100}, size_t{100}, size_t{300000}, size_t{300000}}) {
    busy.emplace_back([&, size, tcp = std::make_shared<Tcp>(Call())] {
      unsigned seed = 1;
      while (!stop) {
        std::string data(size, '\0');
        for (char& c : data) c = static_cast<char>((seed = seed * 1664525 + 1013904223) >> 24);
        std::thread writer([&] { EXPECT_TRUE(tcp->Send(data)); });
        EXPECT_TRUE(tcp->Read(size) == data) << size;
        writer.join();
        ++rounds;
        if (HasFailure()) return;
      }
      tcp->Finish();
      EXPECT_EQ(tcp->Next(), "eof");
    });
  }
  std::vector<Tcp> quiet;
  for (int i = 0; i < 8; ++i) quiet.push_back(Call());
  const size_t all = busy.size() + quiet.size();
  EXPECT_TRUE(Eventually([&] { return Live(*n1) == all; }));
  const auto tunnels = gateway->authorities();
  for (int i = 0; i < 4 && !HasFailure(); ++i) {
    TakeOver(fmt::format("n1-{}", i));
    EXPECT_EQ(Live(*n1), all);
    const int before = rounds;
    EXPECT_TRUE(Eventually([&] { return rounds > before + 20; }));
    const auto at = static_cast<size_t>(i);
    EXPECT_TRUE(quiet[at].Send("after it"));
    EXPECT_EQ(quiet[at].Read(8), "after it");
  }
  stop = true;
  for (std::thread& one : busy) one.join();
  for (Tcp& tcp : quiet) {
    tcp.Finish();
    EXPECT_EQ(tcp.Next(), "eof");
  }
  EXPECT_EQ(gateway->authorities(), tunnels) << "made anew";
  // Who comes now goes through a tunnel that two processes have had, or the other worker's.
  Tcp tcp = Call();
  ExpectEcho(tcp, std::string(100000, 'x'));
  EXPECT_THAT(gateway->authorities(), SizeIs(testing::Le(tunnels.size() + 1)));
}

// Both ends of the way must be who they are to be: the gateway ...
TEST_F(NetworkTest, AFalseGatewayGetsNothing) {
  StartGateway("somebody", *backend);
  EXPECT_EQ(Call().Next(), "reset");
  EXPECT_TRUE(n1->Counts("qanat_connections_refused_total", {"peer_identity_mismatch"}, Ge(1)));
  EXPECT_THAT(gateway->authorities(), SizeIs(0));
}

// ... and whom it leads to.
TEST_F(NetworkTest, AGatewayThatLeadsElsewhereGetsNothing) {
  StartGateway("eastwest", *other);
  Server echo(other->netns(), other->At(8080), Server::Echo());
  EXPECT_EQ(Call().Next(), "reset");
  EXPECT_TRUE(n1->Counts("qanat_connections_refused_total", {"peer_identity_mismatch"}, Ge(1)));
  EXPECT_EQ(echo.accepted(), 0);
}

}  // namespace
}  // namespace qanat::ztunnel::test
