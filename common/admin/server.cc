// SPDX-License-Identifier: Apache-2.0
#include "common/admin/server.h"

#include <algorithm>
#include <utility>

#include "common/base/log.h"
#include "common/http/client.h"
#include "common/http/connection.h"

namespace qanat::admin {
namespace {

http::Options ConnectionOptions(const Options& options) {
  http::Options o;
  o.max_header_bytes = 32 * 1024;
  o.header_timeout = options.header_timeout;
  o.idle_timeout = std::chrono::milliseconds(60000);
  return o;
}

}  // namespace

Response Text(int status, std::string body) {
  Response r;
  r.status = status;
  r.body = std::move(body);
  return r;
}

Response Json(int status, std::string body) {
  Response r;
  r.status = status;
  r.content_type = "application/json";
  r.body = std::move(body);
  return r;
}

std::optional<std::string> Request::Parameter(std::string_view name) const {
  return http::QueryParameter(query, name);
}

// Shared by the exchange and every copy of its Responder. All on the server's loop.
struct Responder::State {
  ~State() {
    if (stream != nullptr) Write(Text(500, "the handler gave no answer\n"));
  }
  void Write(Response response) {
    http::ServerStream* s = std::exchange(stream, nullptr);
    if (s == nullptr) return;
    http::ResponseHead head;
    head.status = response.status;
    head.headers = std::move(response.headers);
    head.headers.Set("content-type", response.content_type);
    head.headers.Set("content-length", std::to_string(response.body.size()));
    head.headers.Set("cache-control", "no-store");
    head.headers.Set("x-content-type-options", "nosniff");
    s->SendResponse(head, response.body.empty());
    if (!response.body.empty()) s->SendData(response.body, true);
  }
  http::ServerStream* stream = nullptr;  // until the answer is given or the client has gone
};

void Responder::Send(Response response) { state_->Write(std::move(response)); }

struct Route {
  std::string method;
  DeferredHandler handler;
};

struct Server::Impl {
  struct Client;

  Impl(event::EventLoop& l, Options o) : loop(l), options(o) {}
  ~Impl();

  void Accept(Fd fd, net::SocketAddress peer);
  void Answer(const Request& request, Responder responder);
  const std::vector<admin::Route>* Match(const std::string& path) const;

  event::EventLoop& loop;
  const Options options;
  std::vector<std::unique_ptr<net::Acceptor>> acceptors;
  std::map<std::string, std::unique_ptr<net::Acceptor>> unix_acceptors;  // by path
  std::map<std::string, std::vector<admin::Route>, std::less<>> exact;
  std::map<std::string, std::vector<admin::Route>, std::less<>> prefixes;
  std::map<Client*, std::unique_ptr<Client>> clients;
};

// One connection with at most one request at a time (HTTP/1.1).
struct Server::Impl::Client final : event::Deferred,
                                    private http::ServerEvents,
                                    private http::StreamEvents {
  Client(Impl& s, Fd fd, net::SocketAddress address) : server(s), peer(address) {
    connection = http::MakeHttp1Server(net::MakeSocketTransport(s.loop, std::move(fd)), this,
                                       ConnectionOptions(s.options));
  }
  ~Client() override { Forget(); }
  void Forget() {
    if (const auto given = weak.lock()) given->stream = nullptr;
    if (state) state->stream = nullptr;
    state.reset();
  }
  void OnRequest(http::ServerStream& stream, http::RequestHead head, bool end) override {
    request = {};
    request.peer = peer;
    request.method = std::move(head.method);
    request.path = http::PercentDecode(head.PathOnly(), false);
    request.query = std::string(head.Query());
    request.headers = std::move(head.headers);
    state = std::make_shared<Responder::State>();
    state->stream = &stream;
    stream.SetEvents(this);
    if (end) Dispatch();
  }
  void OnData(std::string_view data, bool end) override {
    if (!state || state->stream == nullptr) return;
    if (request.body.size() + data.size() > server.options.max_body_bytes) {
      state->Write(Text(413, "the request is over the size limit\n"));
      return;
    }
    request.body.append(data);
    if (end) Dispatch();
  }
  void OnTrailers(http::HeaderList) override { Dispatch(); }
  void OnClosed(http::CloseReason, std::string_view) override { Forget(); }
  void Dispatch() {
    if (!state || state->stream == nullptr) return;
    // The exchange keeps no reference: when the handler drops the last one the client gets 500.
    std::shared_ptr<Responder::State> given = state;
    weak = given;
    state.reset();
    const Request whole = std::move(request);  // the handler may outlive this client
    server.Answer(whole, Responder(std::move(given)));
  }
  void OnConnectionClosed(http::ServerConnection&, bool clean, std::string_view detail) override {
    if (!clean) LOG_DEBUG("admin", "connection closed: {}", detail);
    auto node = server.clients.extract(this);
    server.loop.DeferDelete(std::move(node.mapped()));
  }

  Impl& server;
  const net::SocketAddress peer;
  http::ServerConnectionPtr connection;
  Request request;
  std::shared_ptr<Responder::State> state;
  std::weak_ptr<Responder::State> weak;
};

Server::Impl::~Impl() {
  acceptors.clear();
  clients.clear();
  for (const auto& [path, acceptor] : unix_acceptors) ::unlink(path.c_str());
}

void Server::Impl::Accept(Fd fd, net::SocketAddress peer) {
  if (clients.size() >= options.max_connections) {
    LOG_WARN("admin", "more than {} connections: refusing one", options.max_connections);
    return;
  }
  auto client = std::make_unique<Client>(*this, std::move(fd), peer);
  Client* key = client.get();
  clients.emplace(key, std::move(client));
}

const std::vector<admin::Route>* Server::Impl::Match(const std::string& path) const {
  if (const auto it = exact.find(path); it != exact.end()) return &it->second;
  const std::vector<admin::Route>* best = nullptr;
  size_t length = 0;
  for (const auto& [prefix, routes] : prefixes) {
    if (path.starts_with(prefix) && prefix.size() >= length) {
      best = &routes;
      length = prefix.size();
    }
  }
  return best;
}

void Server::Impl::Answer(const Request& request, Responder responder) {
  const std::vector<admin::Route>* routes = Match(request.path);
  if (routes == nullptr) {
    return responder.Send(Text(404, "no such page: " + request.path + "\n"));
  }
  std::string allowed;
  for (const admin::Route& route : *routes) {
    if (route.method == request.method || (route.method == "GET" && request.method == "HEAD")) {
      // A copy: the handler may change the routes.
      const DeferredHandler handler = route.handler;
      return handler(request, std::move(responder));
    }
    allowed += (allowed.empty() ? "" : ", ") + route.method;
    if (route.method == "GET") allowed += ", HEAD";
  }
  Response response = Text(405, request.method + " is not possible here; use " + allowed + "\n");
  response.headers.Set("allow", allowed);
  responder.Send(std::move(response));
}

Server::Server(event::EventLoop& loop, Options options)
    : impl_(std::make_unique<Impl>(loop, options)) {}
Server::~Server() = default;

Result<net::SocketAddress> Server::Listen(const net::ListenOptions& options) {
  QANAT_ASSIGN_OR_RETURN(Fd fd, net::Listen(options));
  impl_->acceptors.push_back(std::make_unique<net::Acceptor>(
      impl_->loop, std::move(fd), [impl = impl_.get()](Fd accepted, net::SocketAddress peer) {
        impl->Accept(std::move(accepted), peer);
      }));
  return impl_->acceptors.back()->local_address();
}

Status Server::ListenUnix(const std::string& path, unsigned mode) {
  QANAT_ASSIGN_OR_RETURN(Fd fd, http::ListenUnix(path, mode));
  impl_->unix_acceptors[path] = std::make_unique<net::Acceptor>(
      impl_->loop, std::move(fd), [impl = impl_.get()](Fd accepted, net::SocketAddress) {
        impl->Accept(std::move(accepted), {});
      });
  return {};
}

namespace {
DeferredHandler AtOnce(Handler handler) {
  return [handler = std::move(handler)](const Request& request, Responder responder) {
    responder.Send(handler(request));
  };
}
}  // namespace

void Server::Route(std::string_view method, std::string_view path, Handler handler) {
  RouteDeferred(method, path, AtOnce(std::move(handler)));
}

void Server::RouteDeferred(std::string_view method, std::string_view path,
                           DeferredHandler handler) {
  impl_->exact[std::string(path)].push_back({std::string(method), std::move(handler)});
}

void Server::RoutePrefix(std::string_view method, std::string_view prefix, Handler handler) {
  impl_->prefixes[std::string(prefix)].push_back({std::string(method), AtOnce(std::move(handler))});
}

void Server::AddMetricsRoutes(const metrics::Registry& registry) {
  for (std::string_view path : {"/metrics", "/stats/prometheus"}) {
    Route("GET", path, [&registry](const Request& request) {
      const auto format =
          metrics::Registry::Negotiate(request.headers.GetJoined("accept").value_or(""));
      Response response = Text(200, registry.Render(format));
      response.content_type = metrics::Registry::ContentType(format);
      return response;
    });
  }
}

size_t Server::connections() const { return impl_->clients.size(); }

}  // namespace qanat::admin
