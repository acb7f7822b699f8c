// SPDX-License-Identifier: Apache-2.0
#include "tests/bpf/mesh_server.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>

#include "common/event/event_loop.h"
#include "common/grpc/test_server.h"
#include "common/tls/test_certs.h"
#include "common/xds/delta_client.h"
#include "envoy/service/discovery/v3/discovery.pb.h"

namespace qanat::test {
namespace {

using envoy::service::discovery::v3::DeltaDiscoveryRequest;
using envoy::service::discovery::v3::DeltaDiscoveryResponse;

constexpr char kAddress[] = "127.0.0.1:15012";
constexpr size_t kMaxCommand = 65536;

// Commands are "+" or "-", "a" or "p" (address, policy), name, zero, bytes. Each is answered by a
// byte when the agent has acknowledged it.
class Server {
 public:
  Server(int control, tls::TlsContextPtr tls)
      : control_(control),
        server_(loop_, std::move(tls), *net::SocketAddress::Parse(kAddress)),
        watch_(loop_, control, EPOLLIN, [this](uint32_t) { Command(); }) {
    server_.on_call = [this](grpc::test::TestServer::Call& call) {
      stream_ = &call;
      open_.clear();
      addresses_.asked = policies_.asked = false;
      call.on_message = [this, &call](const std::string& message) {
        DeltaDiscoveryRequest request;
        if (stream_ == &call && request.ParseFromString(message)) OnRequest(request);
      };
      call.on_closed = [this, &call] {
        if (stream_ == &call) stream_ = nullptr;
      };
    };
  }
  void Run() { loop_.Run(); }

 private:
  struct Type {
    std::string url;
    std::map<std::string, std::string> resources;
    bool asked = false;
  };
  Type& TypeOf(char letter) { return letter == 'a' ? addresses_ : policies_; }

  void Command() {
    std::string command(kMaxCommand, 0);
    const ssize_t got = ::recv(control_, command.data(), command.size(), 0);
    if (got <= 0) ::_exit(0);
    command.resize(static_cast<size_t>(got));
    const size_t end = command.find('\0');
    Type& type = TypeOf(command[1]);
    const std::string name = command.substr(2, end - 2);
    DeltaDiscoveryResponse response;
    if (command[0] == '+') {
      type.resources[name] = command.substr(end + 1);
      Add(response, type, name);
    } else {
      type.resources.erase(name);
      response.add_removed_resources(name);
    }
    ++waiting_;
    if (stream_ != nullptr && type.asked) Send(type, std::move(response));
  }
  void OnRequest(const DeltaDiscoveryRequest& request) {
    Type& type = request.type_url() == addresses_.url ? addresses_ : policies_;
    if (!request.response_nonce().empty()) {
      open_.erase(request.response_nonce());
    } else {
      type.asked = true;
      DeltaDiscoveryResponse response;
      for (const auto& [name, bytes] : type.resources) Add(response, type, name);
      for (const auto& [name, version] : request.initial_resource_versions()) {
        if (!type.resources.contains(name)) response.add_removed_resources(name);
      }
      Send(type, std::move(response));
    }
    if (!open_.empty() || !addresses_.asked || !policies_.asked) return;
    for (; waiting_ > 0; --waiting_) (void)!::write(control_, "a", 1);
  }
  static void Add(DeltaDiscoveryResponse& response, const Type& type, const std::string& name) {
    auto* resource = response.add_resources();
    resource->set_name(name);
    resource->set_version("v");
    resource->mutable_resource()->set_type_url(type.url);
    resource->mutable_resource()->set_value(type.resources.at(name));
  }
  void Send(const Type& type, DeltaDiscoveryResponse response) {
    response.set_type_url(type.url);
    response.set_nonce(std::to_string(++nonce_));
    open_.insert(response.nonce());
    stream_->Send(response.SerializeAsString());
  }

  int control_;
  event::EventLoop loop_;
  grpc::test::TestServer server_;
  event::IoWatch watch_;
  grpc::test::TestServer::Call* stream_ = nullptr;
  Type addresses_{std::string(xds::kAddressType), {}},
      policies_{std::string(xds::kAuthorizationType), {}};
  std::set<std::string> open_;  // nonces that are not acknowledged
  unsigned waiting_ = 0;
  int nonce_ = 0;
};

}  // namespace

MeshServer::MeshServer(const Bed& bed) {
  const auto ca = tls::testing::TestCa::Make();
  std::ofstream(bed.dir() + "/mesh-root.pem") << ca.authority.certificate.ToPem();
  std::ofstream(bed.dir() + "/mesh-token") << "token\n";
  for (const auto& [name, value] :
       std::map<std::string, std::string>{{"XDS_ADDRESS", std::string("https://") + kAddress},
                                          {"XDS_ROOT_CA", bed.dir() + "/mesh-root.pem"},
                                          {"ALT_XDS_HOSTNAME", "controlplane.test"},
                                          {"AUTH_TOKEN", bed.dir() + "/mesh-token"}})
    ::setenv(name.c_str(), value.c_str(), 1);
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    throw std::runtime_error("socketpair");
  control_ = Fd(ends[0]);
  process_ = bed.Spawn({bed.node_ns(), "host"}, [&] {
    ::close(ends[0]);
    Server(ends[1], ca.Context(ca.Issue(tls::RequestNames{{}, {"controlplane.test"}, {}}))).Run();
  });
  ::close(ends[1]);
}

void MeshServer::Tell(char what, char type, const std::string& name, const std::string& bytes) {
  std::string command = {what, type};
  command.append(name).push_back('\0');
  command.append(bytes);
  if (::send(control_.get(), command.data(), command.size(), MSG_NOSIGNAL) < 0)
    throw std::runtime_error("the test's control plane is gone");
  ++told_;
}

void MeshServer::Put(const istio::workload::Workload& workload) {
  istio::workload::Address address;
  *address.mutable_workload() = workload;
  Tell('+', 'a', workload.uid(), address.SerializeAsString());
}

void MeshServer::Put(const istio::workload::Service& service) {
  istio::workload::Address address;
  *address.mutable_service() = service;
  Tell('+', 'a', service.namespace_() + "/" + service.hostname(), address.SerializeAsString());
}

void MeshServer::Put(const istio::security::Authorization& policy) {
  Tell('+', 'p', policy.namespace_() + "/" + policy.name(), policy.SerializeAsString());
}

void MeshServer::RemovePolicy(const std::string& name) { Tell('-', 'p', name, ""); }

bool MeshServer::WaitAcked(int milliseconds) {
  while (acked_ < told_) {
    pollfd ready{control_.get(), POLLIN, 0};
    if (::poll(&ready, 1, milliseconds * Slowness()) != 1) return false;
    char byte;
    if (::read(control_.get(), &byte, 1) != 1) return false;
    ++acked_;
  }
  return true;
}

istio::workload::Workload WorkloadOf(const Bed::PodInfo& pod) {
  istio::workload::Workload w;
  w.set_uid("Kubernetes//Pod/shop/" + pod.name);
  w.set_name(pod.name);
  w.set_namespace_("shop");
  w.set_service_account("sa-" + pod.name);
  w.set_workload_name(pod.name);
  w.set_node("n1");
  w.set_tunnel_protocol(istio::workload::HBONE);
  for (const std::string& text : {pod.ip4, pod.ip6}) {
    const auto ip = net::IpAddress::Parse(text).value();
    w.add_addresses(reinterpret_cast<const char*>(ip.bytes().data()), ip.bytes().size());
  }
  return w;
}

}  // namespace qanat::test
