// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/ztunnel/bed.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <future>
#include <sstream>

#include "common/net/socket.h"

namespace qanat::ztunnel::test {
namespace {

void Shell(const std::string& command) {
  const int status = std::system(command.c_str());
  EXPECT_EQ(status, 0) << command;
}

// Outgoing connections are sent to 15001, incoming ones (but tunnels) to 15006, as the kernel
// programs do. Marks of the proxy pass.
std::string CaptureRules(Capture capture) {
  if (capture == Capture::kNone) return "table inet q {}\n";
  std::string rules = "table inet q {\n";
  if (capture == Capture::kRedirect) {
    rules +=
        "chain out { type nat hook output priority -100;\n"
        "  oifname != lo meta mark != 0x539 meta l4proto tcp redirect to :15001; }\n";
  } else {
    rules +=
        "chain out { type route hook output priority -150;\n"
        "  oifname lo accept\n"
        "  meta mark { 0x539, 0x53c } accept\n"
        "  ct direction reply accept\n"
        "  meta l4proto tcp meta mark set 0x53a; }\n"
        "chain pre { type filter hook prerouting priority -150;\n"
        "  iifname lo meta mark 0x53a meta l4proto tcp tproxy to :15001 accept; }\n";
  }
  // One-pass connections come from a pod of the same node, with a port that tests keep apart.
  rules +=
      "chain in { type nat hook prerouting priority -100;\n"
      "  iifname != lo tcp dport { 7000-7999 } redirect to :15006; }\n";
  return rules + "}\n";
}

Fd Inside(const netns::NetNs& netns, int family) {
  Fd fd;
  EXPECT_TRUE(netns.Run([&]() -> Status {
    fd.Reset(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return {};
  }));
  return fd;
}

}  // namespace

PodNet::PodNet(const std::string& bridge, int index, Capture capture)
    : name_(fmt::format("qzt-{}-{}", getpid(), index)), index_(index) {
  Shell(
      fmt::format("ip netns add {0} && ip -n {0} link set lo up && "
                  "ip link add e0 netns {0} type veth peer name v{1} netns {2} && "
                  "ip -n {2} link set v{1} master br0 up && ip -n {0} link set e0 up && "
                  "ip -n {0} addr add 10.93.0.{1}/24 dev e0 && "
                  "ip -n {0} addr add fd93::{1}/64 dev e0 nodad && "
                  "ip -n {0} route add 10.96.0.0/16 dev e0 && "
                  "ip -n {0} rule add fwmark 0x53a lookup 101 && "
                  "ip -n {0} route add local default dev lo src 10.93.0.{1} table 101 && "
                  "ip -n {0} -6 rule add fwmark 0x53a lookup 101 && "
                  "ip -n {0} -6 route add local default dev lo src fd93::{1} table 101",
                  name_, index, bridge));
  Shell(fmt::format("printf '%s' '{}' | ip netns exec {} nft -f -", CaptureRules(capture), name_));
  netns_ = std::make_unique<netns::NetNs>(netns::NetNs::Open("/run/netns/" + name_).value());
}

// The link goes first: a namespace dies later than its name, and the other end's name is used
// again.
PodNet::~PodNet() { Shell(fmt::format("ip -n {0} link del e0 && ip netns del {0}", name_)); }

bool Tcp::Send(std::string_view data) {
  while (!data.empty()) {
    const ssize_t n = send(fd_.get(), data.data(), data.size(), MSG_NOSIGNAL);
    if (n <= 0) {
      WasReset();
      return false;
    }
    data.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

std::string Tcp::Read(size_t size) {
  std::string out;  // grows as it comes: some ask for as much as there may be
  std::vector<char> piece(std::min<size_t>(size, 65536));
  while (out.size() < size) {
    pollfd wait{fd_.get(), POLLIN, 0};
    if (poll(&wait, 1, 10000) != 1) break;
    const ssize_t n = recv(fd_.get(), piece.data(), std::min(piece.size(), size - out.size()), 0);
    if (n < 0) WasReset();
    if (n <= 0) break;
    out.append(piece.data(), static_cast<size_t>(n));
  }
  return out;
}

bool Tcp::WasReset() {
  reset_ = reset_ || errno == ECONNRESET || errno == EPIPE;
  return reset_;
}

std::string Tcp::Next(int timeout_ms) {
  if (reset_) return "reset";
  pollfd wait{fd_.get(), POLLIN, 0};
  if (poll(&wait, 1, timeout_ms) != 1) return "nothing";
  char byte;
  const ssize_t n = recv(fd_.get(), &byte, 1, MSG_PEEK);
  if (n == 0) return "eof";
  if (n > 0) return "data";
  return WasReset() ? "reset" : std::string("error ") + std::strerror(errno);
}

void Tcp::Finish() { shutdown(fd_.get(), SHUT_WR); }

void Tcp::Reset() {
  linger reset{1, 0};
  setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  fd_.Reset();
}

Tcp ConnectFrom(const netns::NetNs& netns, const std::string& address) {
  const net::SocketAddress to = net::SocketAddress::Parse(address).value();
  Fd fd = Inside(netns, to.ip().family());
  timeval limit{10, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  sockaddr_storage storage;
  const socklen_t size = to.ToSockaddr(storage);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&storage), size) != 0) return Tcp();
  return Tcp(std::move(fd));
}

void ExpectEcho(Tcp& tcp, const std::string& data) {
  std::thread sender([&] {
    EXPECT_TRUE(tcp.Send(data));
    tcp.Finish();
  });
  const std::string back = tcp.Read(data.size());
  sender.join();
  EXPECT_EQ(back.size(), data.size());
  EXPECT_TRUE(back == data);
  EXPECT_EQ(tcp.Next(), "eof");
}

Server::Server(const netns::NetNs& netns, const std::string& address,
               std::function<void(Tcp&, const std::string&)> serve)
    : serve_(std::move(serve)) {
  const net::SocketAddress at = net::SocketAddress::Parse(address).value();
  listener_ = Inside(netns, at.ip().family());
  const int one = 1;
  setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_storage storage;
  const socklen_t size = at.ToSockaddr(storage);
  EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&storage), size), 0);
  EXPECT_EQ(listen(listener_.get(), 512), 0);
  thread_ = std::thread([this] {
    while (!stop_) {
      pollfd wait{listener_.get(), POLLIN, 0};
      if (poll(&wait, 1, 50) != 1) continue;
      Fd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!fd) continue;
      ++accepted_;
      const std::string peer =
          net::SocketAddress::OfPeer(fd.get()).value_or(net::SocketAddress()).ip().ToString();
      // Threads that have ended are joined at once: those that wait for it are held by the thread
      // sanitizer and the kernel like living ones, and a test makes thousands.
      std::erase_if(workers_, [](Worker& worker) {
        if (*worker.done) worker.thread.join();
        return !worker.thread.joinable();
      });
      auto done = std::make_shared<std::atomic<bool>>(false);
      workers_.push_back(
          {std::thread([this, peer, done, tcp = std::make_shared<Tcp>(std::move(fd))]() mutable {
             serve_(*tcp, peer);
             tcp.reset();
             *done = true;
           }),
           done});
    }
  });
}

Server::~Server() {
  stop_ = true;
  thread_.join();
  for (Worker& worker : workers_) worker.thread.join();
}

std::function<void(Tcp&, const std::string&)> Server::Echo() {
  return [](Tcp& tcp, const std::string&) {
    std::vector<char> buffer(65536);
    while (true) {
      pollfd wait{tcp.fd(), POLLIN, 0};
      if (poll(&wait, 1, 20000) != 1) return;
      const ssize_t n = recv(tcp.fd(), buffer.data(), buffer.size(), 0);
      if (n <= 0 || !tcp.Send({buffer.data(), static_cast<size_t>(n)})) return;
    }
  };
}

// ---- nodes

Node::Node(const std::string& name, const FakeControlPlane& control_plane,
           const std::function<void(Config&)>& change)
    : agent_(fmt::format("/tmp/qzt-{}-{}.sock", getpid(), name)) {
  std::signal(SIGPIPE, SIG_IGN);
  Config config;
  config.node_name = name;
  config.pod_name = "ztunnel-" + name;
  config.pod_namespace = "qanat-system";
  config.control_plane.xds_address = config.control_plane.ca_address = control_plane.endpoint();
  config.control_plane.auth_token = "a-test-token";
  config.inpod_uds = fmt::format("/tmp/qzt-{}-{}.sock", getpid(), name);
  config.admin_address = config.metrics_address = config.readiness_address = "127.0.0.1:0";
  config.orig_src = false;  // replies to a foreign source need the kernel programs' routing
  if (change) change(config);
  std::promise<Status> started;
  thread_.loop().Post([&] {
    app_ = std::make_unique<App>(thread_.loop(), config, [this] { stopped_ = true; });
    started.set_value(app_->Start());
  });
  const Status status = started.get_future().get();
  EXPECT_TRUE(status.has_value()) << (status ? "" : status.error().message);
  admin_ = app_->admin_address();
  metrics_ = app_->metrics_address();
  readiness_ = app_->readiness_address();
  if (config.mode == Config::Mode::kDedicated) return;
  EXPECT_TRUE(agent_.Accept()) << "the proxy did not connect to its agent";
}

Node::~Node() {
  std::promise<void> gone;
  thread_.loop().Post([&] {
    app_.reset();
    thread_.loop().Post([&] { gone.set_value(); });
  });
  gone.get_future().wait();
}

std::string Node::Enrol(const std::string& name, const PodNet& pod, const std::string& account) {
  return agent_.Add("uid-" + name, "shop", name, account.empty() ? name : account,
                    pod.netns().fd());
}

std::string HttpGet(const net::SocketAddress& at, const std::string& method,
                    const std::string& path) {
  const auto here = netns::NetNs::Current().value();
  Tcp tcp = ConnectFrom(here, at.ToString());
  tcp.Send(
      fmt::format("{} {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                  "Content-Length: 0\r\n\r\n",
                  method, path));
  return tcp.Read(64 << 20);
}

std::string Node::Get(const std::string& path, const std::string& method) {
  return HttpGet(admin_, method, path);
}
std::string Node::Metrics() { return HttpGet(metrics_, "GET", "/metrics"); }
std::string Node::Live() { return HttpGet(readiness_, "GET", "/healthz/live"); }
void Node::StallMain(std::shared_future<void> until) {
  thread_.loop().Post([until = std::move(until)] { until.wait(); });
}
std::string Node::Ready() { return HttpGet(readiness_, "GET", "/healthz/ready"); }

double SumOf(const std::string& metrics, const std::string& name,
             const std::vector<std::string>& with) {
  std::istringstream lines(metrics);
  double sum = 0;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name) || (line[name.size()] != '{' && line[name.size()] != ' ')) continue;
    bool all = true;
    for (const std::string& text : with) all = all && line.find(text) != std::string::npos;
    if (all) sum += std::strtod(line.c_str() + line.rfind(' '), nullptr);
  }
  return sum;
}

double Node::Metric(const std::string& name, const std::vector<std::string>& with) {
  return SumOf(Metrics(), name, with);
}

testing::AssertionResult Comes(const std::string& what, const std::function<double()>& look,
                               const testing::Matcher<double>& value, int timeout_ms) {
  double seen = 0;
  for (int waited = 0; waited <= timeout_ms; waited += 20) {
    seen = look();
    if (value.Matches(seen)) return testing::AssertionSuccess();
    usleep(20000);
  }
  return testing::AssertionFailure() << what << " is " << seen << " after " << timeout_ms
                                     << " ms, wanted " << testing::DescribeMatcher<double>(value);
}

testing::AssertionResult Node::Counts(const std::string& name, const std::vector<std::string>& with,
                                      const testing::Matcher<double>& value, int timeout_ms) {
  return Comes(name, [&] { return Metric(name, with); }, value, timeout_ms);
}

void Node::Drain() {
  thread_.loop().Post([this] { app_->Drain(); });
}

bool Node::WaitStopped(int timeout_ms) {
  for (int waited = 0; waited < timeout_ms && !stopped_; waited += 10) usleep(10000);
  return stopped_;
}

// ---- the bed

Bed::Bed() : bridge_(fmt::format("qzt-{}-br", getpid())) {
  Shell(
      fmt::format("ip netns add {0} && ip -n {0} link add br0 type bridge && "
                  "ip -n {0} link set br0 up",
                  bridge_));
}

Bed::~Bed() {
  nodes_.clear();
  pods_.clear();
  Shell("ip netns del " + bridge_);
}

PodNet& Bed::AddPod(int index, Capture capture) {
  pods_.push_back(std::make_unique<PodNet>(bridge_, index, capture));
  return *pods_.back();
}

TestMesh::Workload Bed::Announce(const std::string& name, const PodNet& pod,
                                 const std::string& node,
                                 const std::function<void(TestMesh::Workload&)>& change) {
  auto workload = TestMesh::MakePod(name, pod.ip(), node);
  workload.add_addresses(IpBytes(pod.ip6()));
  if (change) change(workload);
  Put(workload);
  return workload;
}

bool Bed::IsKnown(const PodNet& pod) {
  return std::ranges::all_of(nodes_, [&](const auto& node) {
    return Eventually(
        [&] { return node->Get("/config_dump").find('"' + pod.ip() + '"') != std::string::npos; });
  });
}

void Bed::Put(const TestMesh::Workload& w) {
  control_plane_.Put("Address", w.uid(), TestMesh::Wire(w));
}
void Bed::Put(const TestMesh::Service& s) {
  control_plane_.Put("Address", s.namespace_() + "/" + s.hostname(), TestMesh::Wire(s));
}
void Bed::Put(const TestMesh::Policy& p) {
  control_plane_.Put("Authorization", p.namespace_() + "/" + p.name(), p.SerializeAsString());
}

Node& Bed::AddNode(const std::string& name, const std::function<void(Config&)>& change) {
  nodes_.push_back(std::make_unique<Node>(name, control_plane_, change));
  return *nodes_.back();
}

bool Bed::Eventually(const std::function<bool()>& condition, int timeout_ms) {
  for (int waited = 0; waited < timeout_ms; waited += 20) {
    if (condition()) return true;
    usleep(20000);
  }
  return condition();
}

}  // namespace qanat::ztunnel::test
