// SPDX-License-Identifier: Apache-2.0
// Pods as network namespaces, nodes as proxies in process, and small blocking TCP programs inside
// pods. Pods hang on one bridge namespace; nft rules in each stand in for the capture.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/netns/netns.h"
#include "tests/integration/ztunnel/fakes.h"
#include "ztunnel/app.h"
#include "ztunnel/mesh_for_test.h"

namespace qanat::ztunnel::test {

// How outgoing connections of a pod reach 15001.
enum class Capture { kTproxy, kRedirect, kNone };

class PodNet {
 public:
  // `index` gives the addresses 10.93.0.<index> and fd93::<index>.
  PodNet(const std::string& bridge, int index, Capture capture);
  ~PodNet();
  const netns::NetNs& netns() const { return *netns_; }
  std::string ip() const { return "10.93.0." + std::to_string(index_); }
  std::string ip6() const { return "fd93::" + std::to_string(index_); }
  std::string At(int port) const { return ip() + ":" + std::to_string(port); }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  int index_;
  std::unique_ptr<netns::NetNs> netns_;
};

// A blocking TCP socket with deadlines, for the test's side of things.
class Tcp {
 public:
  Tcp() = default;
  explicit Tcp(Fd fd) : fd_(std::move(fd)) {}
  bool connected() const { return fd_.valid(); }
  bool Send(std::string_view data);
  // Until `size` bytes, the end or the deadline.
  std::string Read(size_t size);
  // "eof", "reset", "data" or "nothing" within the time.
  std::string Next(int timeout_ms = 30000);
  void Finish();  // FIN
  void Reset();   // RST
  void Close() { fd_.Reset(); }
  int fd() const { return fd_.get(); }

 private:
  // The kernel tells of a reset once, and then of an end: who was told first keeps it for Next().
  bool WasReset();

  Fd fd_;
  bool reset_ = false;
};
Tcp ConnectFrom(const netns::NetNs& netns, const std::string& address);
// Sends all of it and FIN to an echo server: the same comes back, then the end.
void ExpectEcho(Tcp& tcp, const std::string& data);

// A TCP server inside a pod; `serve` runs on a thread of its own per connection.
class Server {
 public:
  Server(const netns::NetNs& netns, const std::string& address,
         std::function<void(Tcp&, const std::string& peer)> serve);
  ~Server();
  static std::function<void(Tcp&, const std::string&)> Echo();
  int accepted() const { return accepted_; }

 private:
  struct Worker {
    std::thread thread;
    std::shared_ptr<std::atomic<bool>> done;
  };
  Fd listener_;
  std::function<void(Tcp&, const std::string&)> serve_;
  std::atomic<int> accepted_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
  std::vector<Worker> workers_;
};

// One proxy with its agent.
class Node {
 public:
  Node(const std::string& name, const FakeControlPlane& control_plane,
       const std::function<void(Config&)>& change = {});
  ~Node();
  FakeAgent& agent() { return agent_; }
  std::string Enrol(const std::string& name, const PodNet& pod, const std::string& account = "");
  std::string Get(const std::string& path, const std::string& method = "GET");  // admin
  std::string Metrics();
  std::string Ready();
  std::string Live();
  void StallMain(std::shared_future<void> until);  // its main loop does not turn before that
  double Metric(const std::string& name, const std::vector<std::string>& with = {});
  // Whether that value comes to match; what is seen from outside may run ahead of a counter.
  testing::AssertionResult Counts(const std::string& name, const std::vector<std::string>& with,
                                  const testing::Matcher<double>& value, int timeout_ms = 30000);
  void Drain();
  bool WaitStopped(int timeout_ms);
  net::SocketAddress admin_address() const { return admin_; }

 private:
  FakeAgent agent_;
  event::LoopThread thread_{"node-main"};
  std::unique_ptr<App> app_;
  std::atomic<bool> stopped_{false};
  net::SocketAddress admin_, metrics_, readiness_;
};

// The value of a counter in the text of /metrics: the sum of all series of the metric that contain
// all the texts.
double SumOf(const std::string& metrics, const std::string& name,
             const std::vector<std::string>& with);

// Whether a number comes to match; a failure says what it was.
testing::AssertionResult Comes(const std::string& what, const std::function<double()>& look,
                               const testing::Matcher<double>& value, int timeout_ms = 30000);

std::string HttpGet(const net::SocketAddress& at, const std::string& method,
                    const std::string& path);

// A mesh of pods on nodes that tests fill.
class Bed : public ::testing::Test {
 protected:
  Bed();
  ~Bed() override;
  PodNet& AddPod(int index, Capture capture = Capture::kTproxy);
  // Announces the pod to the control plane's clients; the service account is the name.
  TestMesh::Workload Announce(const std::string& name, const PodNet& pod, const std::string& node,
                              const std::function<void(TestMesh::Workload&)>& change = {});
  // Whether all nodes come to know of a pod: what is put while they run reaches each in its time.
  bool IsKnown(const PodNet& pod);
  void Put(const TestMesh::Workload& w);
  void Put(const TestMesh::Service& s);
  void Put(const TestMesh::Policy& p);
  Node& AddNode(const std::string& name, const std::function<void(Config&)>& change = {});
  static bool Eventually(const std::function<bool()>& condition, int timeout_ms = 30000);

  std::string bridge_;
  FakeControlPlane control_plane_;
  std::vector<std::unique_ptr<PodNet>> pods_;
  std::vector<std::unique_ptr<Node>> nodes_;
};

}  // namespace qanat::ztunnel::test
