// SPDX-License-Identifier: Apache-2.0
// The ways to run the proxy beside the node agent's pods: for one workload in its own namespace,
// for the proxy's own pod, from a local file, by SOCKS5; and what it does ahead of time.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>

#include "tests/integration/ztunnel/bed.h"

namespace qanat::ztunnel::test {
namespace {

using namespace std::string_literals;
using testing::Contains;
using testing::Eq;
using testing::Ge;
using testing::HasSubstr;
using testing::Not;

std::string Spiffe(const std::string& account) {
  return "spiffe://cluster.local/ns/shop/sa/" + account;
}

class ModesTest : public Bed {
 protected:
  void TearDown() override { nodes_.clear(); }  // before the relays, which wait for their clients

  // The proxy runs inside the pod's namespace: its threads are made there. What it reaches at the
  // control plane's loopback address is brought there by a relay.
  Node& AddNodeIn(const std::string& name, PodNet& pod,
                  const std::function<void(Config&)>& change) {
    const std::string address = control_plane_.endpoint().substr(strlen("http://"));
    relays_.push_back(std::make_unique<Server>(
        pod.netns(), "127.0.0.1" + address.substr(address.rfind(':')),
        [this, address](Tcp& client, const std::string&) { Relay(client, address); }));
    EXPECT_TRUE(pod.netns().Run([&]() -> Status {
      nodes_.push_back(std::make_unique<Node>(name, control_plane_, change));
      return {};
    }));
    return *nodes_.back();
  }
  void Relay(Tcp& client, const std::string& address) {
    Tcp server = ConnectFrom(home_, address);
    std::thread back([&] { Pump(server, client); });
    Pump(client, server);
    back.join();
  }
  static void Pump(Tcp& from, Tcp& to) {
    std::vector<char> buffer(65536);
    while (true) {
      const ssize_t n = recv(from.fd(), buffer.data(), buffer.size(), 0);
      if (n <= 0 || !to.Send({buffer.data(), static_cast<size_t>(n)})) break;
    }
    shutdown(from.fd(), SHUT_RDWR);
    shutdown(to.fd(), SHUT_RDWR);
  }
  static std::string In(PodNet& pod, const std::function<std::string()>& ask) {
    std::string out;
    EXPECT_TRUE(pod.netns().Run([&]() -> Status {
      out = ask();
      return {};
    }));
    return out;
  }
  static bool Talks(PodNet& from, const std::string& to) {
    Tcp tcp = ConnectFrom(from.netns(), to);
    return tcp.connected() && tcp.Send("x") && tcp.Read(1) == "x";
  }

  const netns::NetNs home_ = netns::NetNs::Current().value();
  std::vector<std::unique_ptr<Server>> relays_;
};

TEST_F(ModesTest, DedicatedServesTheOneWorkloadOfItsNamespace) {
  PodNet& frontend = AddPod(1, Capture::kRedirect);
  PodNet& backend = AddPod(2);
  Announce("frontend", frontend, "n1");
  Announce("backend", backend, "n2");
  Node& n2 = AddNode("n2");
  ASSERT_EQ(n2.Enrol("backend", backend), "");
  ASSERT_EQ(n2.agent().SnapshotSent(), "");
  Node& sidecar = AddNodeIn("n1", frontend, [](Config& config) {
    config.mode = Config::Mode::kDedicated;
    config.dedicated = {"shop", "frontend", "frontend"};
    config.packet_mark = 1337;  // what the test's capture leaves alone
    config.one_pass = false;
  });
  EXPECT_TRUE(Eventually([&] {
    return In(frontend, [&] { return sidecar.Ready(); }).find("ready\n") != std::string::npos;
  }));
  Server there(backend.netns(), backend.At(8080), Server::Echo());
  EXPECT_TRUE(Talks(frontend, backend.At(8080)));
  EXPECT_TRUE(n2.Counts("istio_tcp_connections_opened_total",
                        {"reporter=\"destination\"", "sa/frontend", "mutual_tls"}, Eq(1)));
  Server here(frontend.netns(), frontend.At(8080), Server::Echo());
  EXPECT_TRUE(Talks(backend, frontend.At(8080)));
  EXPECT_TRUE(n2.Counts("istio_tcp_connections_opened_total",
                        {"reporter=\"source\"", "sa/frontend", "mutual_tls"}, Eq(1)));
  // It asks for itself, by its token; the node proxy asks in the name of pods.
  EXPECT_THAT(control_plane_.AskedForThemselves(), testing::ElementsAre(Spiffe("frontend")));
  EXPECT_THAT(In(frontend, [&] { return sidecar.Get("/config_dump"); }),
              HasSubstr("\"dedicated\""));
}

TEST_F(ModesTest, TheProxysOwnPodTakesHbone) {
  PodNet& scraper = AddPod(1);
  PodNet& own = AddPod(3, Capture::kNone);
  Announce("scraper", scraper, "n1");
  Announce("ztunnel-n2", own, "n2",
           [](TestMesh::Workload& w) { w.set_service_account("ztunnel"); });
  Node& n1 = AddNode("n1");
  ASSERT_EQ(n1.Enrol("scraper", scraper), "");
  ASSERT_EQ(n1.agent().SnapshotSent(), "");
  Node& n2 = AddNodeIn("n2", own, [](Config& config) {
    config.pod_namespace = "shop";
    config.service_account = "ztunnel";
    config.metrics_address = "0.0.0.0:15020";
    config.orig_src.reset();  // as by default: a foreign source would never hear an answer here
  });
  ASSERT_EQ(n2.agent().SnapshotSent(), "");
  std::string metrics;
  EXPECT_TRUE(Eventually([&] {
    Tcp tcp = ConnectFrom(scraper.netns(), own.At(15020));
    tcp.Send("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    metrics = tcp.Read(1 << 20);
    return metrics.find("200 OK") != std::string::npos;
  }));
  EXPECT_THAT(metrics, HasSubstr("istio_build"));
  EXPECT_TRUE(n1.Counts("istio_tcp_connections_opened_total", {"sa/ztunnel", "mutual_tls"}, Ge(1)));
  EXPECT_THAT(In(own, [&] { return n2.Ready(); }), HasSubstr("ready\n"));
  // Only the tunnel port: nothing else of the proxy's listens there.
  EXPECT_FALSE(ConnectFrom(own.netns(), own.At(15001)).connected());
  EXPECT_FALSE(ConnectFrom(own.netns(), own.At(15006)).connected());
}

TEST_F(ModesTest, ALocalFileInPlaceOfAControlPlane) {
  PodNet& frontend = AddPod(1);
  PodNet& backend = AddPod(2);
  const std::string path = fmt::format("/tmp/qzt-{}-local.yaml", getpid());
  const auto write = [&](const std::string& policies) {
    std::ofstream(path + ".next") << fmt::format(R"(
workloads:
- {{uid: Kubernetes//Pod/shop/frontend, name: frontend, namespace: shop, protocol: HBONE,
   serviceAccount: frontend, node: n1, workloadIps: [{}]}}
- {{uid: Kubernetes//Pod/shop/backend, name: backend, namespace: shop, protocol: HBONE,
   serviceAccount: backend, node: n2, workloadIps: [{}],
   services: {{shop/backend.example: {{80: 8080}}}}}}
services:
- {{name: backend, namespace: shop, hostname: backend.example, vips: [/10.96.0.10],
   ports: {{80: 8080}}}}
policies: {}
)",
                                                 frontend.ip(), backend.ip(), policies);
    rename((path + ".next").c_str(), path.c_str());
  };
  write("[]");
  const auto local = [&](Config& config) {
    config.control_plane.xds_address.clear();
    config.local_xds_path = path;
  };
  Node& n1 = AddNode("n1", local);
  Node& n2 = AddNode("n2", local);
  ASSERT_EQ(n1.Enrol("frontend", frontend), "");
  ASSERT_EQ(n2.Enrol("backend", backend), "");
  ASSERT_EQ(n1.agent().SnapshotSent(), "");
  ASSERT_EQ(n2.agent().SnapshotSent(), "");
  EXPECT_TRUE(Eventually([&] { return n1.Ready().find("ready\n") != std::string::npos; }));
  Server echo(backend.netns(), backend.At(8080), Server::Echo());
  EXPECT_TRUE(Talks(frontend, "10.96.0.10:80"));
  EXPECT_TRUE(
      n2.Counts("istio_tcp_connections_opened_total", {"sa/frontend", "mutual_tls"}, Eq(1)));
  write(R"(
- {name: no, namespace: shop, action: Deny, scope: Namespace,
   rules: [[[{principals: [{Exact: cluster.local/ns/shop/sa/frontend}]}]]]})");
  EXPECT_TRUE(Eventually([&] { return !Talks(frontend, "10.96.0.10:80"); }));
  std::ofstream(path) << "policies: [";  // what is broken changes nothing
  sleep(2);
  EXPECT_FALSE(Talks(frontend, "10.96.0.10:80"));
  std::remove(path.c_str());
}

TEST_F(ModesTest, CertificatesOfTheNodesWorkloadsAreFetchedAhead) {
  PodNet& pod = AddPod(1);
  AddNode("n1");
  Announce("soon", pod, "n1");
  Announce("elsewhere", pod, "n2");
  Announce("plain", pod, "n1",
           [](TestMesh::Workload& w) { w.set_tunnel_protocol(istio::workload::NONE); });
  EXPECT_TRUE(Eventually([&] { return control_plane_.IssuedFor().contains(Spiffe("soon")); }));
  EXPECT_THAT(control_plane_.IssuedFor(), Not(Contains(Spiffe("elsewhere"))));
  EXPECT_THAT(control_plane_.IssuedFor(), Not(Contains(Spiffe("plain"))));
  EXPECT_THAT(nodes_[0]->Get("/config_dump"), HasSubstr(Spiffe("soon")));
  control_plane_.Remove("Address", "Kubernetes//Pod/shop/soon");
  EXPECT_TRUE(Eventually([&] {  // and forgotten with the last of them
    return nodes_[0]->Get("/config_dump").find("\"identity\"") == std::string::npos;
  }));
}

TEST_F(ModesTest, Socks5WhereItIsSwitchedOn) {
  PodNet& frontend = AddPod(1, Capture::kNone);
  PodNet& backend = AddPod(2);
  Announce("frontend", frontend, "n1");
  Announce("backend", backend, "n2");
  Node& n1 = AddNode("n1", [](Config& config) { config.socks5 = true; });
  Node& n2 = AddNode("n2");
  ASSERT_EQ(n1.Enrol("frontend", frontend), "");
  ASSERT_EQ(n2.Enrol("backend", backend), "");
  ASSERT_EQ(n1.agent().SnapshotSent(), "");
  Server echo(backend.netns(), backend.At(8080), Server::Echo());
  Tcp tcp = ConnectFrom(frontend.netns(), "127.0.0.1:15080");
  ASSERT_TRUE(tcp.connected());
  // What comes behind the request belongs to the server.
  tcp.Send("\x05\x01\x00\x05\x01\x00\x01\x0a\x5d\x00\x02\x1f\x90hello"s);
  EXPECT_EQ(tcp.Read(17), "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00hello"s);
  EXPECT_TRUE(
      n2.Counts("istio_tcp_connections_opened_total", {"sa/frontend", "mutual_tls"}, Eq(1)));
  Tcp refused = ConnectFrom(frontend.netns(), "127.0.0.1:15080");
  refused.Send("GET / HTTP/1.1\r\n\r\n");
  EXPECT_THAT(refused.Next(), testing::AnyOf("eof", "reset"));
  EXPECT_FALSE(ConnectFrom(backend.netns(), "127.0.0.1:15080").connected());  // off there
}

// How many sockets listen at a port inside of a pod, of both families.
int ListenersAt(const PodNet& pod, int port) {
  int found = 0;
  EXPECT_TRUE(pod.netns().Run([&]() -> Status {
    for (const char* table : {"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"}) {
      std::ifstream file(table);
      for (std::string line; std::getline(file, line);) {
        found += line.find(fmt::format(":{:04X} ", port)) < line.find(" 0A ") &&
                 line.find(" 0A ") != line.npos;
      }
    }
    return {};
  }));
  return found;
}

// Without SO_REUSEPORT the workers share the sockets.
TEST_F(ModesTest, ListenersWithoutPortReuse) {
  PodNet& frontend = AddPod(1);
  PodNet& backend = AddPod(2);
  Announce("frontend", frontend, "n1");
  Announce("backend", backend, "n2");
  Node& n1 = AddNode("n1");
  Node& n2 = AddNode("n2", [](Config& config) { config.reuse_port = false; });
  ASSERT_EQ(n1.Enrol("frontend", frontend), "");
  ASSERT_EQ(n2.Enrol("backend", backend), "");
  ASSERT_EQ(n1.agent().SnapshotSent(), "");
  Server echo(backend.netns(), backend.At(8080), Server::Echo());
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(Talks(frontend, backend.At(8080)));
  // One socket for both workers there, and one each where ports can be shared.
  EXPECT_EQ(ListenersAt(backend, 15008), 1);
  EXPECT_EQ(ListenersAt(frontend, 15008), 2);
}

TEST_F(ModesTest, Liveness) {
  Node& node = AddNode("n1");
  EXPECT_THAT(node.Live(), testing::AllOf(HasSubstr("200"), HasSubstr("live\n")));
  EXPECT_TRUE(node.Counts("qanat_stuck_threads", {}, Eq(0)));
  // Stuck is who has not turned for ten seconds; asked is another thread.
  std::promise<void> end;
  node.StallMain(end.get_future().share());
  EXPECT_TRUE(Eventually([&] { return node.Live().find("200") == std::string::npos; }, 60'000));
  EXPECT_THAT(node.Live(), testing::AllOf(HasSubstr("500"), HasSubstr("stuck: main (")));
  end.set_value();
  EXPECT_TRUE(Eventually([&] { return node.Live().find("live\n") != std::string::npos; }));
  EXPECT_TRUE(node.Counts("qanat_stuck_threads", {}, Eq(0)));
}

// The handler of a signal that does not come back before it is let: the thread is stuck wherever it
// was.
std::atomic<bool> let_go;
void StayHere(int) {
  while (!let_go) poll(nullptr, 0, 10);
}

// A thread of this process by its name.
class Held {
 public:
  explicit Held(const std::string& name) {
    let_go = false;
    std::signal(SIGUSR2, StayHere);
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      std::string is;
      std::getline(std::ifstream(task.path() / "comm") >> std::ws, is);
      if (is == name) thread_ = std::stoi(task.path().filename());
    }
    EXPECT_NE(thread_, 0) << name;
    EXPECT_EQ(syscall(SYS_tgkill, getpid(), thread_, SIGUSR2), 0);
  }
  ~Held() { let_go = true; }

 private:
  int thread_ = 0;
};

TEST_F(ModesTest, LivenessOfWorkers) {
  Node& node = AddNode("n1");
  {
    const Held held("worker-1");
    EXPECT_TRUE(Eventually([&] { return node.Live().find("200") == std::string::npos; }, 60'000));
    EXPECT_THAT(node.Live(), testing::AllOf(HasSubstr("500"), HasSubstr("stuck: worker-1 (")));
    EXPECT_TRUE(node.Counts("qanat_stuck_threads", {}, Eq(1)));
  }
  EXPECT_TRUE(Eventually([&] { return node.Live().find("live\n") != std::string::npos; }));
  // The one that answers: then the probe has no answer, which is one as well.
  std::future<std::string> asked;
  {
    const Held held("worker-0");
    asked = std::async(std::launch::async, [&] { return node.Live(); });
    EXPECT_EQ(asked.wait_for(std::chrono::seconds(3)), std::future_status::timeout);
  }
  EXPECT_THAT(asked.get(), HasSubstr("live\n"));
}

}  // namespace
}  // namespace qanat::ztunnel::test
