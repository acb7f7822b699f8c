// SPDX-License-Identifier: Apache-2.0
// The waypoint's data path in process, between HBONE clients and servers of the test: a CA made on
// the spot, worker threads of the proxy, everything of the test on one loop driven by Until().
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/hbone/client_session.h"
#include "common/hbone/server_session.h"
#include "common/http/connection.h"
#include "common/metrics/registry.h"
#include "common/net/socket.h"
#include "common/tls/test_certs.h"
#include "tests/integration/waypoint/resources.h"
#include "waypoint/config/store.h"
#include "waypoint/proxy/proxy.h"

namespace qanat::waypoint::test {

inline constexpr const char* kFrontend = "spiffe://cluster.local/ns/shop/sa/frontend";
inline constexpr const char* kBackend = "spiffe://cluster.local/ns/shop/sa/backend";
inline constexpr const char* kWaypoint = "spiffe://cluster.local/ns/shop/sa/waypoint";

// One request as an upstream sees it. Lives until its stream closes.
struct UpstreamCall final : http::StreamEvents {
  http::ServerStream* stream = nullptr;  // null once closed
  http::RequestHead head;
  std::string body;
  bool ended = false;
  bool closed = false;
  http::CloseReason close_reason = http::CloseReason::kDone;
  std::string server;  // the name of the upstream
  http::HeaderList trailers;
  std::function<void(UpstreamCall&)> on_end;
  std::function<void(UpstreamCall&)> on_writable;

  void Reply(int status, std::string_view body = "",
             std::vector<std::pair<std::string, std::string>> headers = {});
  void OnData(std::string_view data, bool end) override;
  void OnTrailers(http::HeaderList t) override;
  void OnWritable() override;
  void OnClosed(http::CloseReason reason, std::string_view detail) override;
};

// A server behind the waypoint: plain TCP, or the far end of a tunnel.
class FakeUpstream final : http::ServerEvents {
 public:
  using Handler = std::function<void(UpstreamCall&)>;  // at the head; the body may still come
  FakeUpstream(event::EventLoop& loop, std::string name, tls::TlsContextPtr hbone = nullptr);
  ~FakeUpstream();

  net::SocketAddress address() const { return address_; }
  TestEndpoint endpoint(const std::string& identity = kBackend) const;
  void Kill();  // stops listening and aborts everything

  Handler handler;  // default: 200 with the upstream's name
  // Raw mode (TCP): gets each byte stream instead of HTTP.
  std::function<void(net::TransportPtr)> raw;
  std::vector<std::unique_ptr<UpstreamCall>> calls;
  size_t connections = 0;                // HTTP connections or raw streams so far
  std::vector<std::string> authorities;  // of CONNECT
  int refuse_connects = 0;               // answer so many CONNECTs with 503

 private:
  void OnRequest(http::ServerStream& stream, http::RequestHead head, bool end) override;
  void OnConnectionClosed(http::ServerConnection& c, bool clean, std::string_view detail) override;
  void Serve(net::TransportPtr transport);

  event::EventLoop& loop_;
  std::string name_;
  tls::TlsContextPtr hbone_;
  net::SocketAddress address_;
  std::unique_ptr<net::Acceptor> acceptor_;
  std::vector<std::unique_ptr<tls::TlsHandshake>> handshakes_;
  std::vector<std::unique_ptr<hbone::ServerSession>> sessions_;
  std::vector<http::ServerConnectionPtr> connections_;
};

// One response as a client sees it.
struct ClientCall final : http::StreamEvents {
  http::Stream* stream = nullptr;
  http::ResponseHead response;
  std::vector<int> informational;
  bool has_response = false;
  std::string body;
  http::HeaderList trailers;
  bool ended = false, closed = false;
  bool discard = false;  // count only
  size_t bytes = 0;
  http::CloseReason close_reason = http::CloseReason::kDone;

  int status() const { return response.status; }
  std::string header(const std::string& name) const;
  void OnInformational(http::ResponseHead head) override;
  void OnResponse(http::ResponseHead head, bool end) override;
  void OnData(std::string_view data, bool end) override;
  void OnTrailers(http::HeaderList t) override;
  void OnClosed(http::CloseReason reason, std::string_view detail) override;
};

class Bed;

// A client's tunnel to the waypoint.
class Client final : http::ClientEvents {
 public:
  Client(Bed& bed, const std::string& identity);
  ~Client();
  bool connected() const { return session_ != nullptr; }
  std::string error;
  int connect_status = 0;  // of the last CONNECT
  bool tunnel_closed = false;

  // A byte stream through the waypoint; null when refused (see connect_status).
  net::TransportPtr Open(const std::string& authority);
  http::ClientConnection* OpenHttp(const std::string& authority, bool http2);
  hbone::ClientSession* session() { return session_.get(); }

 private:
  friend class Bed;
  void OnConnectionClosed(http::ClientConnection& c, bool clean, std::string_view detail) override;
  Bed& bed_;
  std::unique_ptr<tls::TlsConnector> connector_;
  std::unique_ptr<hbone::ClientSession> session_;
  std::vector<http::ClientConnectionPtr> http_;
};

class Bed {
 public:
  explicit Bed(int workers = 1, std::function<void(ProxySettings&)> change = {});
  ~Bed();

  event::EventLoop loop;
  tls::testing::TestCa ca = tls::testing::TestCa::Make();
  metrics::Registry registry;
  std::unique_ptr<ConfigStore> store;
  std::unique_ptr<Proxy> proxy;
  net::SocketAddress address;

  // Pushes and waits until every worker has it.
  std::map<std::string, std::string> Push(const Resources& resources);
  // Every worker has done what it was told before: certificates, snapshot.
  void WaitForWorkers();
  bool Until(const std::function<bool()>& done,
             std::chrono::milliseconds limit = std::chrono::seconds(60));
  void RunFor(std::chrono::milliseconds time);
  // GET (or what `head` says) over a fresh or given connection, and the whole answer.
  std::unique_ptr<ClientCall> Call(http::ClientConnection* c, http::RequestHead head,
                                   std::string_view body = "");
  std::unique_ptr<ClientCall> Get(http::ClientConnection* c, std::string path,
                                  std::vector<std::pair<std::string, std::string>> headers = {});
  std::unique_ptr<ClientCall> Start(http::ClientConnection* c, http::RequestHead head, bool end);
  static http::RequestHead Head(std::string method, std::string path);
  std::string Metrics() { return registry.Render(); }
};

}  // namespace qanat::waypoint::test
