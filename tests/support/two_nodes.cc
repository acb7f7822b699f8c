// SPDX-License-Identifier: Apache-2.0
#include "tests/support/two_nodes.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <future>
#include <string>

#include "common/net/socket.h"
#include "common/proto/workload.pb.h"
#include "common/state/mesh_state.h"

namespace qanat::ztunnel::test {
namespace {

constexpr char kClient[] = "127.0.0.1", kServer[] = "127.88.0.2", kService[] = "127.88.0.9";

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(1);
}

net::IpAddress Ip(const char* text) { return net::IpAddress::Parse(text).value(); }
std::string Bytes(const char* text) {
  const net::IpAddress ip = Ip(text);
  return {reinterpret_cast<const char*>(ip.bytes().data()), ip.bytes().size()};
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

}  // namespace

TwoNodes::TwoNodes(const Options& options)
    : access_log_(options.log_fd), ca_(tls::testing::TestCa::Make()), snapshot_(MakeMesh()) {
  environment_.config.keepalive = {};
  environment_.config.max_pod_connections = 60000;
  environment_.config.early_data = options.early_data;
  environment_.metrics = &metrics_;
  environment_.pools = &pools_;
  environment_.access_log = &access_log_;
  environment_.post_main = [](const auto&) {};
  environment_.want_certificate = [](const model::Identity&) { std::abort(); };
  environment_.renew_certificate = [](const model::Identity&) {};
  environment_.reread_addresses = [](const std::string&) {};
  near_ = std::make_unique<Worker>(0, environment_);
  far_ = std::make_unique<Worker>(1, environment_);
  SetUp(*near_, "client", kClient, 1, Role::kOutbound, ListenAt(kService, 80, false));
  SetUp(options.same_node ? *near_ : *far_, "server", kServer, 2, Role::kInboundHbone,
        ListenAt(kServer, 15008, true));
}

TwoNodes::~TwoNodes() { Stop(); }

void TwoNodes::Stop() {
  near_->Stop();
  far_->Stop();
}

void TwoNodes::SetUp(Worker& worker, const char* name, const char* ip, uint64_t cookie, Role role,
                     Fd listener) {
  auto certificate = std::make_shared<identity::WorkloadCertificate>();
  certificate->identity = {"cluster.local", "shop", name};
  const auto issued = ca_.Issue(certificate->identity.ToString());
  certificate->client = certificate->server = ca_.Context(issued);
  const auto info = [](const tls::Certificate& one) {
    return identity::CertificateInfo{one.ToPem(), "1", one.not_before(), one.not_after()};
  };
  certificate->chain = {info(issued.certificate)};
  certificate->roots = {info(ca_.authority.certificate)};
  std::promise<void> done;
  auto shared = std::make_shared<Fd>(std::move(listener));
  worker.loop().Post([&, certificate, shared] {
    worker.SetSnapshot(snapshot_);
    worker.SetCertificate(certificate->identity, certificate);
    Listeners listeners;
    listeners.push_back({role, std::move(*shared)});
    worker.AddPod(LocalPod(name, ip, cookie), std::move(listeners));
    done.set_value();
  });
  done.get_future().wait();
}

Fd TwoNodes::ListenAsServer() {
  Fd listener = ListenAt(kServer, 8080, false);
  const int flags = fcntl(listener.get(), F_GETFL);
  fcntl(listener.get(), F_SETFL, flags & ~O_NONBLOCK);
  return listener;
}

Fd TwoNodes::Dial() {
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

// ---- connections that stay

namespace {

void SendAll(int fd, std::string& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = write(fd, bytes.data() + done, bytes.size() - done);
    if (n <= 0) Die("write");
    done += static_cast<size_t>(n);
  }
}

void ReadAll(int fd, std::string& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = read(fd, bytes.data() + done, bytes.size() - done);
    if (n <= 0) Die("read");
    done += static_cast<size_t>(n);
  }
}

}  // namespace

HeldConnections::HeldConnections(size_t most) { held_.reserve(most); }

void HeldConnections::Open(size_t count, size_t bytes) {
  std::string text(bytes, 'x');
  for (size_t i = 0; i < count; ++i) {
    Ends ends{TwoNodes::Dial(), Fd()};
    ends.server = Fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!ends.server) Die("accept");
    SendAll(ends.client.get(), text);
    ReadAll(ends.server.get(), text);
    SendAll(ends.server.get(), text);
    ReadAll(ends.client.get(), text);
    held_.push_back(std::move(ends));
  }
}

void HeldConnections::Close() { held_.clear(); }

}  // namespace qanat::ztunnel::test
