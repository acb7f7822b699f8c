// SPDX-License-Identifier: Apache-2.0
#include "tests/interop/hbone/envoy_peer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "common/net/address.h"

namespace qanat::interop {
namespace {

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::trunc) << text;
}

bool Answers(uint16_t port) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage to{};
  socklen_t size = net::SocketAddress(net::IpAddress::V4(0x7f000001), port).ToSockaddr(to);
  return ::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), size) == 0;
}

// Own certificate, trust, and whom to expect, for either role.
std::string TlsConfig(const std::string& dir, const std::string& expect) {
  return fmt::format(R"(
            tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}
            alpn_protocols: [h2]
            tls_certificates:
            - certificate_chain: {{filename: {0}/cert.pem}}
              private_key: {{filename: {0}/key.pem}}
            validation_context:
              trusted_ca: {{filename: {0}/root.pem}}
              match_typed_subject_alt_names:
              - {{san_type: URI, matcher: {{exact: "{1}"}}}}
)",
                     dir, expect);
}

std::string ClientListener(const EnvoyOptions& o) {
  return fmt::format(R"(
  - name: plain
    address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: plain
          cluster: tunnel
          tunneling_config:
            hostname: "{}"
            headers_to_add:
            - header: {{key: baggage, value: "k8s.namespace.name=envoy"}}
)",
                     o.client_port, o.authority);
}

std::string ClientCluster(const EnvoyOptions& o, const std::string& dir) {
  return fmt::format(R"(
  - name: tunnel
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: tunnel
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:{}
)",
                     o.peer_port, TlsConfig(dir, o.expect));
}

std::string ServerListener(const EnvoyOptions& o, const std::string& dir) {
  return fmt::format(R"(
  - name: hbone
    address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:{}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: hbone
          codec_type: HTTP2
          http2_protocol_options: {{allow_connect: true}}
          upgrade_configs: [{{upgrade_type: CONNECT}}]
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{connect_matcher: {{}}}}
                route:
                  cluster: upstream
                  timeout: 0s
                  upgrade_configs: [{{upgrade_type: CONNECT, connect_config: {{}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
)",
                     o.server_port, TlsConfig(dir, o.expect_client));
}

std::string ServerCluster(const EnvoyOptions& o) {
  return fmt::format(R"(
  - name: upstream
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: upstream
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]
)",
                     o.upstream_port);
}

}  // namespace

std::string FindEnvoy() {
  if (const char* path = std::getenv("QANAT_ENVOY")) return path;
  const char* script = std::getenv("QANAT_ENVOY_SCRIPT");
  if (script == nullptr) return {};
  FILE* pipe = ::popen((std::string("bash ") + script).c_str(), "re");
  if (pipe == nullptr) return {};
  std::string out;
  char buffer[512];
  while (size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) out.append(buffer, n);
  ::pclose(pipe);
  while (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

Envoy::Envoy(const std::string& binary, const std::string& dir, const tls::testing::TestCa& ca,
             const tls::testing::TestCa::Identity& identity, const EnvoyOptions& options)
    : dir_(dir) {
  WriteFile(dir + "/cert.pem", identity.certificate.ToPem());
  WriteFile(dir + "/key.pem", identity.key.ToPem());
  WriteFile(dir + "/root.pem", ca.authority.certificate.ToPem());
  std::string listeners, clusters;
  if (options.client_port != 0) {
    listeners += ClientListener(options);
    clusters += ClientCluster(options, dir);
  }
  if (options.server_port != 0) {
    listeners += ServerListener(options, dir);
    clusters += ServerCluster(options);
  }
  WriteFile(dir + "/envoy.yaml",
            "static_resources:\n  listeners:" + listeners + "\n  clusters:" + clusters + "\n");
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    int log = ::open((dir + "/envoy.log").c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
    ::dup2(log, 1);
    ::dup2(log, 2);
    ::execl(binary.c_str(), "envoy", "-c", (dir + "/envoy.yaml").c_str(), "--concurrency", "1",
            "--disable-hot-restart", "--log-level", "warning", nullptr);
    ::_exit(127);
  }
  uint16_t port = options.client_port != 0 ? options.client_port : options.server_port;
  for (int i = 0; i < 600; ++i) {
    if (::waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      return;
    }
    // A server's TLS port answers a bare connect() too; Envoy shrugs it off.
    if (options.server_port != 0 ? Answers(options.server_port) : Answers(port)) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

Envoy::~Envoy() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGTERM);
  for (int i = 0; i < 100; ++i) {
    if (::waitpid(pid_, nullptr, WNOHANG) == pid_) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

std::string Envoy::Log() const {
  std::ifstream in(dir_ + "/envoy.log");
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace qanat::interop
