// SPDX-License-Identifier: Apache-2.0
#include "common/kube/dialer.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <optional>

#include "common/grpc/resolver.h"
#include "common/kube/files.h"
#include "common/net/socket.h"
#include "common/tls/tls_transport.h"

namespace qanat::kube {
namespace {

// A watch may be silent for minutes: only the kernel's probes see that the node behind it is gone
// when the connection is HTTP/1.1 and has no PING.
void SetKeepalive(int fd) {
  const int on = 1, idle = 30, interval = 10, count = 3;
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace

struct Dialer::Impl {
  Impl(event::EventLoop& l, const ClientConfig& c, std::vector<std::string> protocols,
       std::chrono::milliseconds timeout, Done d)
      : loop(l),
        config(c),
        alpn(std::move(protocols)),
        limit(timeout),
        done(std::move(d)),
        resolver(l),
        deadline(l,
                 [this] {
                   Finish(Fail(Code::kDeadlineExceeded,
                               "timed out after " + std::to_string(limit.count()) + " ms while " +
                                   phase +
                                   "; is the address right, and does a network policy or "
                                   "firewall let us through?"));
                 }),
        start(l, [this] { Start(); }) {
    deadline.Start(limit);
    start.Start({});
  }

  void Start() {
    auto parsed = ParseServerUrl(config.server);
    if (!parsed) return Finish(Fail(parsed.error()));
    url = std::move(*parsed);
    phase = "resolving " + url.host;
    query = resolver.Resolve(url.host, [this](Result<std::vector<net::IpAddress>> result) {
      if (!result) {
        return Finish(
            Fail(Code::kUnavailable,
                 result.error().message + "; is the server's name right, and the DNS up?"));
      }
      addresses = std::move(*result);
      TryNext();
    });
  }

  void TryNext() {
    if (next >= addresses.size()) {
      return Finish(Fail(last_error.value_or(Error{Code::kUnavailable, "no address", 0})));
    }
    net::ConnectOptions connect;
    connect.to = net::SocketAddress(addresses[next++], url.port);
    connect.timeout = limit;
    phase = "connecting to " + connect.to.ToString();
    connector = std::make_unique<net::Connector>(
        loop, connect, [this](Result<Fd> fd) { Connected(std::move(fd)); });
  }

  void Connected(Result<Fd> fd) {
    if (!fd) {
      last_error = Error{Code::kUnavailable,
                         fd.error().message + "; is the API server up, and is this its address (" +
                             config.origin + ")?",
                         fd.error().sys_errno};
      return TryNext();
    }
    SetKeepalive(fd->get());
    net::TransportPtr socket = net::MakeSocketTransport(loop, std::move(*fd));
    if (!url.tls) return Finish(Dialed{std::move(socket), {}});
    auto context = Context();
    if (!context) return Finish(Fail(context.error()));
    tls::HandshakeOptions handshake;
    handshake.role = tls::Role::kClient;
    const std::string& name = config.tls_server_name.empty() ? url.host : config.tls_server_name;
    handshake.peer.names = {name};
    if (!net::IpAddress::Parse(name)) handshake.server_name = name;
    handshake.timeout = limit;
    phase = "TLS handshake with " + url.authority;
    shake = std::make_unique<tls::TlsHandshake>(
        std::move(socket), std::move(*context), std::move(handshake),
        [this](Result<tls::TlsConnection> result) {
          if (!result) return Finish(Fail(ExplainTls(result.error())));
          Finish(Dialed{std::move(result->transport), result->peer.alpn});
        });
  }

  Result<tls::TlsContextPtr> Context() {
    std::string roots = config.ca_pem;
    std::string from = "the CA of " + config.origin;
    if (!config.ca_file.empty()) {
      auto text = ReadFile(config.ca_file);
      if (!text) return Fail(Code::kUnavailable, "the CA cannot be read: " + text.error().message);
      roots = std::move(*text);
      from = config.ca_file;
    }
    if (roots.empty()) {
      return Fail(Code::kInvalidArgument,
                  "no CA to check the API server against (" + config.origin +
                      "): the cluster needs certificate-authority or certificate-authority-data");
    }
    tls::ContextOptions options;
    options.alpn = alpn;
    options.allow_tls12 = true;  // some managed clusters' load balancers end TLS themselves
    auto context = tls::TlsContext::FromPem(config.client_certificate_pem, config.client_key_pem,
                                            roots, std::move(options));
    if (!context) return Fail(context.error().Annotate(from + " or the client certificate"));
    return context;
  }

  Error ExplainTls(const Error& error) const {
    Error out = error.Annotate(phase);
    if (out.code == Code::kUnavailable) {
      out.message += "; is the API server starting or ending, or something else in its place?";
    }
    if (out.code == Code::kUnauthenticated) {
      out.message +=
          " (credentials: " + config.origin +
          "; does its CA belong to this cluster, and the name in the server's address to "
          "its certificate?)";
    }
    return out;
  }

  void Finish(Result<Dialed> result) {
    deadline.Stop();
    start.Stop();
    Done call = std::move(done);
    call(std::move(result));  // may destroy this
  }

  event::EventLoop& loop;
  const ClientConfig& config;
  std::vector<std::string> alpn;
  std::chrono::milliseconds limit;
  Done done;
  grpc::Resolver resolver;
  event::Timer deadline;
  event::Timer start;
  ServerUrl url;
  std::string phase = "starting";
  std::vector<net::IpAddress> addresses;
  size_t next = 0;
  std::optional<Error> last_error;
  std::unique_ptr<grpc::Resolver::Query> query;
  std::unique_ptr<net::Connector> connector;
  std::unique_ptr<tls::TlsHandshake> shake;
};

Dialer::Dialer(event::EventLoop& loop, const ClientConfig& config, std::vector<std::string> alpn,
               std::chrono::milliseconds timeout, Done done)
    : impl_(std::make_unique<Impl>(loop, config, std::move(alpn), timeout, std::move(done))) {}
Dialer::~Dialer() = default;

}  // namespace qanat::kube
