// SPDX-License-Identifier: Apache-2.0
#include "tests/interop/hbone/envoy_peer.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "common/base/fd.h"
#include "common/net/address.h"

namespace qanat::interop {
namespace {

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::trunc) << text;
}
std::string ReadFile(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// A connection from inside the namespace; an invalid Fd when there is no answer.
Fd Dial(const netns::NetNs* netns, const std::string& ip, uint16_t port) {
  Fd fd;
  const auto open = [&fd]() -> Status {
    fd.Reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return {};
  };
  if (!(netns != nullptr ? netns->Run(open) : open())) return {};
  sockaddr_storage to{};
  socklen_t size = net::SocketAddress(*net::IpAddress::Parse(ip), port).ToSockaddr(to);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), size) != 0) fd.Reset();
  return fd;
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

// CONNECT of HTTP/1.1 in front, carried on as CONNECT through the tunnel.
std::string ConnectListener(const EnvoyOptions& o) {
  return fmt::format(R"(
  - name: connect
    address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: connect
          codec_type: HTTP1
          upgrade_configs: [{{upgrade_type: CONNECT}}]
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{connect_matcher: {{}}}}
                route: {{cluster: tunnel, timeout: 0s, upgrade_configs: [{{upgrade_type: CONNECT}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
)",
                     o.connect_port);
}

std::string ClientCluster(const EnvoyOptions& o, const std::string& dir) {
  return fmt::format(R"(
  - name: tunnel
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: tunnel
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]
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
                     o.peer_ip, o.peer_port, TlsConfig(dir, o.expect));
}

std::string ServerListener(const EnvoyOptions& o, const std::string& dir) {
  return fmt::format(R"(
  - name: hbone
    address: {{socket_address: {{address: {}, port_value: {}}}}}
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
          common_http_protocol_options: {{max_requests_per_connection: {}}}
          upgrade_configs: [{{upgrade_type: CONNECT}}]
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {}/access.log
              log_format: {{text_format_source: {{inline_string: "%DOWNSTREAM_PEER_URI_SAN% %REQ(:METHOD)% %REQ(:AUTHORITY)% %RESPONSE_CODE% %REQ(BAGGAGE)% %REQ(FORWARDED)% %REQ(X-FORWARDED-NETWORK)%\n"}}}}
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
                     o.server_ip, o.server_port, TlsConfig(dir, o.expect_client),
                     o.requests_per_connection, dir);
}

std::string ServerCluster(const EnvoyOptions& o) {
  return fmt::format(R"(
  - name: upstream
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: upstream
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]
)",
                     o.upstream_ip, o.upstream_port);
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
    : dir_(dir), options_(options) {
  WriteFile(dir + "/cert.pem", identity.certificate.ToPem());
  WriteFile(dir + "/key.pem", identity.key.ToPem());
  WriteFile(dir + "/root.pem", ca.authority.certificate.ToPem());
  std::string listeners, clusters, admin;
  if (options.client_port != 0) {
    listeners += ClientListener(options);
    clusters += ClientCluster(options, dir);
  }
  if (options.connect_port != 0) listeners += ConnectListener(options);
  if (options.server_port != 0) {
    listeners += ServerListener(options, dir);
    clusters += ServerCluster(options);
  }
  if (options.admin_port != 0) {
    admin = fmt::format(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}\n",
        options.admin_port);
  }
  WriteFile(dir + "/envoy.yaml", admin + "static_resources:\n  listeners:" + listeners +
                                     "\n  clusters:" + clusters + "\n");
  test::Child::Options run;
  run.command = {binary,
                 "-c",
                 dir + "/envoy.yaml",
                 "--concurrency",
                 "1",
                 "--log-level",
                 "warning",
                 "--disable-hot-restart",
                 "--file-flush-interval-msec",
                 "50"};
  run.log = dir + "/envoy.log";
  if (options.netns != nullptr) run.netns = options.netns->fd();
  child_ = std::make_unique<test::Child>(run);
  for (int i = 0; i < 600 && child_->running() && !Serves(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

bool Envoy::Serves() const {
  if (options_.admin_port != 0) return Stat("server.live") == 1;
  // A server's TLS port answers a bare connect() too; Envoy shrugs it off. As client it opens a
  // tunnel for it.
  const bool server = options_.server_port != 0;
  return Dial(options_.netns, server ? options_.server_ip : "127.0.0.1",
              server ? options_.server_port : options_.client_port)
      .valid();
}

Envoy::~Envoy() { child_->Stop(5000); }

std::string Envoy::AccessLog() const { return ReadFile(dir_ + "/access.log"); }

long Envoy::Stat(const std::string& name) const {
  Fd fd = Dial(options_.netns, "127.0.0.1", options_.admin_port);
  if (!fd) return -1;
  const std::string request = "GET /stats HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n";
  ::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL);
  std::string answer;
  char buffer[65536];
  for (ssize_t n; (n = ::recv(fd.get(), buffer, sizeof buffer, 0)) > 0;) {
    answer.append(buffer, static_cast<size_t>(n));
  }
  const size_t at = answer.find("\n" + name + ": ");
  return at == std::string::npos ? -1 : std::atol(answer.c_str() + at + name.size() + 3);
}

}  // namespace qanat::interop
