// SPDX-License-Identifier: Apache-2.0
#include "tests/support/loopback_proxies.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <future>

#include "common/proto/workload.pb.h"
#include "common/state/mesh_state.h"
#include "common/tls/test_certs.h"

namespace qanat::test {
namespace {

using ztunnel::PodPtr;
using ztunnel::Role;
using ztunnel::Worker;

constexpr char kClient[] = "127.0.0.1";
constexpr int kServer = 2, kService = 9;  // the last part of their addresses
constexpr uint16_t kServicePort = 80, kApplicationPort = 8080;

net::IpAddress Ip(const std::string& text) { return net::IpAddress::Parse(text).value(); }
std::string Bytes(const std::string& text) {
  const net::IpAddress ip = Ip(text);
  return {reinterpret_cast<const char*>(ip.bytes().data()), ip.bytes().size()};
}

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(1);
}

istio::workload::Workload MakePod(const char* name, const std::string& ip) {
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

PodPtr LocalPod(const char* name, const std::string& ip, uint64_t cookie) {
  auto pod = std::make_shared<ztunnel::Pod>();
  pod->uid = name;
  pod->name = pod->service_account = name;
  pod->ns = "shop";
  pod->netns_cookie = cookie;
  pod->addresses = {Ip(ip)};
  return pod;
}

void NoDelay(const Fd& fd) {
  const int one = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

}  // namespace

LoopbackProxies::LoopbackProxies(const Options& options, log::LineWriter& log) : options_(options) {
  environment_.config.keepalive = {};
  environment_.config.max_pod_connections = 60000;
  environment_.metrics = &metrics_;
  environment_.pools = &pools_;
  environment_.access_log = &log;
  environment_.post_main = [](const auto&) {};
  environment_.want_certificate = [](const model::Identity&) { std::abort(); };
  environment_.renew_certificate = [](const model::Identity&) {};
  environment_.reread_addresses = [](const std::string&) {};
  near_ = std::make_unique<Worker>(0, environment_);
  far_ = std::make_unique<Worker>(1, environment_);

  const auto ca = tls::testing::TestCa::Make();
  const auto snapshot = MakeMesh();
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
      ztunnel::Listeners listeners;
      listeners.push_back({role, std::move(*shared)});
      worker.AddPod(pod, std::move(listeners));
      done.set_value();
    });
    done.get_future().wait();
  };
  set_up(*near_, LocalPod("client", kClient, 1), Role::kOutbound,
         ListenAt(Address(kService), kServicePort, false));
  set_up(options.same_node ? *near_ : *far_, LocalPod("server", Address(kServer), 2),
         Role::kInboundHbone, ListenAt(Address(kServer), 15008, true));
  application_ = ListenAt(Address(kServer), kApplicationPort, false);
  fcntl(application_.get(), F_SETFL, fcntl(application_.get(), F_GETFL) & ~O_NONBLOCK);
  server_ = std::thread([this] { Serve(); });
}

LoopbackProxies::~LoopbackProxies() {
  near_->Stop();
  far_->Stop();
  shutdown(application_.get(), SHUT_RDWR);  // accept() returns
  server_.join();
}

std::string LoopbackProxies::Address(int host) const {
  return "127." + std::to_string(options_.net) + ".0." + std::to_string(host);
}

Fd LoopbackProxies::ListenAt(const std::string& ip, uint16_t port, bool transparent) const {
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

state::SnapshotPtr LoopbackProxies::MakeMesh() const {
  state::MeshState state;
  istio::workload::Address service;
  istio::workload::Service& s = *service.mutable_service();
  s.set_name("backend");
  s.set_namespace_("shop");
  s.set_hostname("backend.shop.svc.cluster.local");
  s.add_addresses()->set_address(Bytes(Address(kService)));
  s.add_ports()->set_service_port(kServicePort);
  s.mutable_ports(0)->set_target_port(kApplicationPort);
  istio::workload::Address server, client;
  *client.mutable_workload() = MakePod("client", kClient);
  *server.mutable_workload() = MakePod("server", Address(kServer));
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

// ---- the two applications

void LoopbackProxies::Serve() {
  while (true) {
    const Fd fd(accept4(application_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd) return;
    NoDelay(fd);
    char byte;
    while (read(fd.get(), &byte, 1) == 1 && write(fd.get(), &byte, 1) == 1) {
    }
  }
}

Fd LoopbackProxies::Dial() const {
  Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  NoDelay(fd);
  sockaddr_storage storage;
  socklen_t size = net::SocketAddress(Ip(kClient), 0).ToSockaddr(storage);
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&storage), size) != 0) Die("bind");
  size = net::SocketAddress(Ip(Address(kService)), kServicePort).ToSockaddr(storage);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&storage), size) != 0) Die("connect");
  return fd;
}

void LoopbackProxies::Trip(const Fd& fd) {
  char byte = 'x';
  if (write(fd.get(), &byte, 1) != 1 || read(fd.get(), &byte, 1) != 1) Die("a round trip");
}

void LoopbackProxies::Once() const {
  const Fd fd = Dial();
  Trip(fd);
  shutdown(fd.get(), SHUT_WR);
  char byte;
  if (read(fd.get(), &byte, 1) != 0) Die("the end");
}

}  // namespace qanat::test
