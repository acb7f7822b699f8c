// SPDX-License-Identifier: Apache-2.0
// What new connections and round trips cost the node proxy's user space and in system calls, by
// hand: two workers in this process, one for the client's node and one for the server's, over
// loopback, with no namespace and no capture. A machine that is busy with other things shows the
// same figures.
//
//   connection_cost connect|trips COUNT
//   strace -f -c build/release/bin/... connect 2000     (the threads "worker-0", "worker-1")
//   valgrind --tool=callgrind --separate-threads=yes ... connect 2000
//
// Take the difference of two counts: what is done once falls out. Needs root (foreign source
// addresses) and 127.88.0.0/16 for itself.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <string>
#include <thread>

#include "common/proto/workload.pb.h"
#include "common/state/mesh_state.h"
#include "common/tls/test_certs.h"
#include "ztunnel/proxy/worker.h"

using namespace qanat;           // NOLINT: a program of its own
using namespace qanat::ztunnel;  // NOLINT

namespace {

constexpr char kClient[] = "127.0.0.1", kServer[] = "127.88.0.2", kService[] = "127.88.0.9";

net::IpAddress Ip(const char* text) { return net::IpAddress::Parse(text).value(); }
std::string Bytes(const char* text) {
  const net::IpAddress ip = Ip(text);
  return {reinterpret_cast<const char*>(ip.bytes().data()), ip.bytes().size()};
}

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(1);
}

Fd ListenAt(const char* ip, uint16_t port, bool transparent) {
  net::ListenOptions options;
  options.address = net::SocketAddress(Ip(ip), port);
  options.transparent = transparent;
  options.stream_options = net::KeepAlive{};
  auto fd = net::Listen(options);
  if (!fd) {
    std::fprintf(stderr, "%s\n", fd.error().message.c_str());
    std::exit(1);
  }
  return std::move(*fd);
}

istio::workload::Workload MakePod(const char* name, const char* ip) {
  istio::workload::Workload w;
  w.set_uid(std::string("Kubernetes//Pod/shop/") + name);
  w.set_name(name);
  w.set_namespace_("shop");
  w.set_service_account(name);
  w.set_workload_name(name);
  w.set_canonical_name(name);
  w.set_canonical_revision("v1");
  w.set_cluster_id("Kubernetes");
  w.set_node(name);
  w.set_tunnel_protocol(istio::workload::HBONE);
  w.add_addresses(Bytes(ip));
  return w;
}

state::SnapshotPtr MakeMesh() {
  state::MeshState state;
  istio::workload::Address service;
  istio::workload::Service& s = *service.mutable_service();
  s.set_name("backend");
  s.set_namespace_("shop");
  s.set_hostname("backend.shop.svc.cluster.local");
  s.add_addresses()->set_address(Bytes(kService));
  s.add_ports()->set_service_port(80);
  s.mutable_ports(0)->set_target_port(8080);
  istio::workload::Address server, client;
  *client.mutable_workload() = MakePod("client", kClient);
  *server.mutable_workload() = MakePod("server", kServer);
  *(*server.mutable_workload()->mutable_services())["shop/backend.shop.svc.cluster.local"]
       .add_ports() = s.ports(0);
  const auto put = [&](const char* name, const istio::workload::Address& a) {
    if (!state.UpsertAddress(name, a.SerializeAsString())) Die("the mesh");
  };
  put("shop/backend.shop.svc.cluster.local", service);
  put("Kubernetes//Pod/shop/client", client);
  put("Kubernetes//Pod/shop/server", server);
  return state.Publish();
}

PodPtr LocalPod(const char* name, const char* ip, uint64_t cookie) {
  auto pod = std::make_shared<Pod>();
  pod->uid = name;
  pod->name = pod->service_account = name;
  pod->ns = "shop";
  pod->netns_cookie = cookie;
  pod->addresses = {Ip(ip)};
  return pod;
}

// ---- the two applications

void Serve(const Fd& listener) {
  while (true) {
    Fd fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd) return;
    std::thread([fd = std::move(fd)] {
      const int one = 1;
      setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      char byte;
      while (read(fd.get(), &byte, 1) == 1 && write(fd.get(), &byte, 1) == 1) {
      }
    }).detach();
  }
}

Fd Dial() {
  Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int one = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  sockaddr_storage storage;
  socklen_t size = net::SocketAddress(Ip(kClient), 0).ToSockaddr(storage);
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&storage), size) != 0) Die("bind");
  size = net::SocketAddress(Ip(kService), 80).ToSockaddr(storage);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&storage), size) != 0) Die("connect");
  return fd;
}

void Trip(int fd) {
  char byte = 'x';
  if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) Die("a round trip");
}

void Once() {
  const Fd fd = Dial();
  Trip(fd.get());
  shutdown(fd.get(), SHUT_WR);
  char byte;
  if (read(fd.get(), &byte, 1) != 0) Die("the end");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc == 3 ? argv[1] : "";
  const int count = argc == 3 ? std::atoi(argv[2]) : 0;
  if (count <= 0 || (what != "connect" && what != "trips")) {
    std::fprintf(stderr, "usage: connection_cost connect|trips COUNT\n");
    return 2;
  }
  rlimit files{65536, 65536};
  setrlimit(RLIMIT_NOFILE, &files);
  metrics::Registry registry;
  Metrics metrics(registry);
  PoolMetrics pools(registry);
  log::LineWriter access_log(2);
  Environment environment;
  environment.config.keepalive = {};
  environment.config.max_pod_connections = 60000;
  environment.metrics = &metrics;
  environment.pools = &pools;
  environment.access_log = &access_log;
  environment.post_main = [](const auto&) {};
  environment.want_certificate = [](const model::Identity&) { std::abort(); };
  environment.renew_certificate = [](const model::Identity&) {};
  environment.reread_addresses = [](const std::string&) {};

  const auto ca = tls::testing::TestCa::Make();
  const auto snapshot = MakeMesh();
  Worker near(0, environment), far(1, environment);
  const auto set_up = [&](Worker& worker, const PodPtr& pod, Role role, Fd listener) {
    auto certificate = std::make_shared<identity::WorkloadCertificate>();
    certificate->identity = {"cluster.local", "shop", pod->name};
    const auto issued = ca.Issue(certificate->identity.ToString());
    certificate->client = certificate->server = ca.Context(issued);
    const auto info = [](const tls::Certificate& one) {
      return identity::CertificateInfo{one.ToPem(), "1", one.not_before(), one.not_after()};
    };
    certificate->chain = {info(issued.certificate)};
    certificate->roots = {info(ca.authority.certificate)};
    std::promise<void> done;
    auto shared = std::make_shared<Fd>(std::move(listener));
    worker.loop().Post([&, certificate, shared] {
      worker.SetSnapshot(snapshot);
      worker.SetCertificate(certificate->identity, certificate);
      Listeners listeners;
      listeners.push_back({role, std::move(*shared)});
      worker.AddPod(pod, std::move(listeners));
      done.set_value();
    });
    done.get_future().wait();
  };
  set_up(near, LocalPod("client", kClient, 1), Role::kOutbound, ListenAt(kService, 80, false));
  set_up(far, LocalPod("server", kServer, 2), Role::kInboundHbone, ListenAt(kServer, 15008, true));
  auto* listener = new Fd(ListenAt(kServer, 8080, false));
  const int flags = fcntl(listener->get(), F_GETFL);
  fcntl(listener->get(), F_SETFL, flags & ~O_NONBLOCK);
  std::thread([listener] { Serve(*listener); }).detach();

  if (what == "connect") {
    for (int i = 0; i < count; ++i) Once();
  } else {
    const Fd fd = Dial();
    for (int i = 0; i < count; ++i) Trip(fd.get());
  }
  near.Stop();
  far.Stop();
  std::fflush(nullptr);
  _exit(0);  // the applications' threads are where they are
}
