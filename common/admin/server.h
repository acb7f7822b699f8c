// SPDX-License-Identifier: Apache-2.0
// The admin HTTP/1.1 server of every program: status, config_dump, metrics, readiness. Lives on one
// loop (the main one); handlers run there and may answer later. Bounded: header timeout 2 s as
// stock ztunnel's, request size, number of connections.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/http/message.h"
#include "common/metrics/registry.h"
#include "common/net/socket.h"

namespace qanat::admin {

struct Request {
  std::string method;
  std::string path;   // decoded, without query
  std::string query;  // as sent
  http::HeaderList headers;
  std::string body;
  net::SocketAddress peer;  // none on a unix socket
  std::optional<std::string> Parameter(std::string_view name) const;
};

struct Response {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
  http::HeaderList headers;
};
Response Text(int status, std::string body);
Response Json(int status, std::string body);

// Answers one request, once, on the server's loop; later calls and calls after the client left do
// nothing. If the last copy goes without an answer the client gets 500.
class Responder {
 public:
  void Send(Response response);
  struct State;
  explicit Responder(std::shared_ptr<State> state) : state_(std::move(state)) {}

 private:
  std::shared_ptr<State> state_;
};

using Handler = std::function<Response(const Request&)>;
using DeferredHandler = std::function<void(const Request&, Responder)>;

struct Options {
  std::chrono::milliseconds header_timeout{2000};
  size_t max_body_bytes = 1 << 20;
  size_t max_connections = 256;
};

class Server {
 public:
  explicit Server(event::EventLoop& loop, Options options = {});
  ~Server();

  // Returns the bound address (port 0 picks one). Several listeners share the routes.
  Result<net::SocketAddress> Listen(const net::ListenOptions& options);
  // Once more at the same path, whose file was removed: in place of the socket before.
  Status ListenUnix(const std::string& path, unsigned mode = 0600);

  // Exact path. GET routes also answer HEAD. A known path with another method gets 405 with Allow.
  void Route(std::string_view method, std::string_view path, Handler handler);
  void RouteDeferred(std::string_view method, std::string_view path, DeferredHandler handler);
  // Every path that begins with `prefix`; exact routes and longer prefixes win.
  void RoutePrefix(std::string_view method, std::string_view prefix, Handler handler);

  // GET /metrics and /stats/prometheus with content negotiation.
  void AddMetricsRoutes(const metrics::Registry& registry);

  size_t connections() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::admin
