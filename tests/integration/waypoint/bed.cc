// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/waypoint/bed.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace qanat::waypoint::test {

using std::chrono::milliseconds;

void UpstreamCall::Reply(int status, std::string_view text,
                         std::vector<std::pair<std::string, std::string>> headers) {
  if (stream == nullptr) return;
  http::ResponseHead response;
  response.status = status;
  for (auto& [name, value] : headers) response.headers.Add(name, value);
  response.headers.Set("content-length", std::to_string(text.size()));
  stream->SendResponse(response, text.empty());
  if (!text.empty()) stream->SendData(text, true);
}

void UpstreamCall::OnData(std::string_view data, bool end) {
  body.append(data);
  ended = ended || end;
  if (end && on_end) on_end(*this);
}
void UpstreamCall::OnTrailers(http::HeaderList t) {
  trailers = std::move(t);
  ended = true;
  if (on_end) on_end(*this);
}
void UpstreamCall::OnWritable() {
  if (on_writable) on_writable(*this);
}
void UpstreamCall::OnClosed(http::CloseReason reason, std::string_view) {
  stream = nullptr;
  closed = true;
  close_reason = reason;
}

FakeUpstream::FakeUpstream(event::EventLoop& loop, std::string name, tls::TlsContextPtr hbone)
    : loop_(loop), name_(std::move(name)), hbone_(std::move(hbone)) {
  handler = [this](UpstreamCall& call) {
    if (call.ended) return call.Reply(200, name_);
    call.on_end = [this](UpstreamCall& c) { c.Reply(200, name_); };
  };
  net::ListenOptions options;
  options.address = *net::SocketAddress::Parse("127.0.0.1:0");
  auto fd = net::Listen(options);
  address_ = *net::SocketAddress::OfLocal(fd->get());
  acceptor_ =
      std::make_unique<net::Acceptor>(loop, std::move(*fd), [this](Fd socket, net::SocketAddress) {
        auto transport = net::MakeSocketTransport(loop_, std::move(socket));
        if (!hbone_) return Serve(std::move(transport));
        tls::HandshakeOptions tls;
        tls.role = tls::Role::kServer;
        handshakes_.push_back(std::make_unique<tls::TlsHandshake>(
            std::move(transport), hbone_, tls, [this](Result<tls::TlsConnection> c) {
              if (!c) return;
              hbone::ServerSession::Events events;
              events.on_connect = [this](hbone::InboundConnect request,
                                         hbone::Responder responder) {
                authorities.push_back(request.authority);
                if (refuse_connects > 0) {
                  --refuse_connects;
                  return responder.Reject(503);
                }
                if (auto t = responder.Accept()) Serve(std::move(t));
              };
              sessions_.push_back(std::make_unique<hbone::ServerSession>(
                  std::move(c->transport), hbone::SessionOptions{}, std::move(events)));
            }));
      });
}

FakeUpstream::~FakeUpstream() { Kill(); }

void FakeUpstream::Kill() {
  acceptor_.reset();
  handshakes_.clear();
  for (auto& call : calls) call->stream = nullptr;
  connections_.clear();
  sessions_.clear();
}

TestEndpoint FakeUpstream::endpoint(const std::string& identity) const {
  TestEndpoint e;
  e.workload = name_;
  if (!hbone_) {
    e.address = address_.ToString();
    return e;
  }
  e.address = "10.91.1." + std::to_string(5 + address_.port() % 200) + ":8080";
  e.tunnel = address_.ToString();
  e.identity = identity;
  return e;
}

void FakeUpstream::Serve(net::TransportPtr transport) {
  ++connections;
  if (raw) return raw(std::move(transport));
  connections_.push_back(http::MakeAutoServer(std::move(transport), this, {}));
}

void FakeUpstream::OnRequest(http::ServerStream& stream, http::RequestHead head, bool end) {
  auto call = std::make_unique<UpstreamCall>();
  call->stream = &stream;
  call->head = std::move(head);
  call->ended = end;
  call->server = name_;
  stream.SetEvents(call.get());
  calls.push_back(std::move(call));
  handler(*calls.back());
}

void FakeUpstream::OnConnectionClosed(http::ServerConnection& c, bool, std::string_view) {
  for (auto it = connections_.begin(); it != connections_.end(); ++it) {
    if (it->get() != &c) continue;
    loop_.DeferDelete(std::move(*it));
    connections_.erase(it);
    return;
  }
}

std::string ClientCall::header(const std::string& name) const {
  return response.headers.GetJoined(name).value_or("");
}
void ClientCall::OnInformational(http::ResponseHead head) { informational.push_back(head.status); }
void ClientCall::OnResponse(http::ResponseHead head, bool end) {
  response = std::move(head);
  has_response = true;
  ended = end;
}
void ClientCall::OnData(std::string_view data, bool end) {
  bytes += data.size();
  if (!discard) body.append(data);
  ended = ended || end;
}
void ClientCall::OnTrailers(http::HeaderList t) {
  trailers = std::move(t);
  ended = true;
}
void ClientCall::OnClosed(http::CloseReason reason, std::string_view) {
  stream = nullptr;
  closed = true;
  close_reason = reason;
}

Client::Client(Bed& bed, const std::string& identity) : bed_(bed) {
  net::ConnectOptions connect;
  connect.to = net::SocketAddress(*net::IpAddress::Parse("127.0.0.1"), bed.address.port());
  tls::HandshakeOptions tls;
  tls.peer.uris = {kWaypoint};
  bool done = false;
  connector_ = std::make_unique<tls::TlsConnector>(
      bed.loop, connect, bed.ca.Context(identity), tls, [&](Result<tls::TlsConnection> c) {
        done = true;
        if (!c) {
          error = c.error().message;
          return;
        }
        hbone::ClientSession::Events events;
        events.on_closed = [this](const hbone::CloseReason& reason) {
          tunnel_closed = true;
          error = reason.message;
        };
        session_ = std::make_unique<hbone::ClientSession>(std::move(c->transport),
                                                          hbone::SessionOptions{}, events);
      });
  bed.Until([&] { return done; });
}

Client::~Client() {
  http_.clear();
  session_.reset();
}

net::TransportPtr Client::Open(const std::string& authority) {
  net::TransportPtr out;
  bool done = false;
  hbone::ConnectRequest request;
  request.authority = authority;
  request.headers = {{"baggage",
                      "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,"
                      "k8s.deployment.name=frontend,service.name=frontend,service.version=v1"}};
  if (!session_) return nullptr;
  auto pending = session_->Connect(request, [&](hbone::ClientSession::ConnectResult r) {
    done = true;
    connect_status = r ? r->status : -1;
    if (r) out = std::move(r->stream);
  });
  bed_.Until([&] { return done; });
  return out;
}

http::ClientConnection* Client::OpenHttp(const std::string& authority, bool http2) {
  auto transport = Open(authority);
  if (!transport) return nullptr;
  http_.push_back(http2 ? http::MakeHttp2Client(std::move(transport), this, {})
                        : http::MakeHttp1Client(std::move(transport), this, {}));
  return http_.back().get();
}

void Client::OnConnectionClosed(http::ClientConnection& c, bool, std::string_view) {
  for (auto it = http_.begin(); it != http_.end(); ++it) {
    if (it->get() != &c) continue;
    bed_.loop.DeferDelete(std::move(*it));
    http_.erase(it);
    return;
  }
}

Bed::Bed(int workers, std::function<void(ProxySettings&)> change) {
  ProxySettings settings;
  settings.listen = *net::SocketAddress::Parse("127.0.0.1:0");
  settings.workers = workers;
  settings.identity = kWaypoint;
  settings.workload_name = "waypoint";
  settings.workload_namespace = "shop";
  settings.access_log = false;
  if (change) change(settings);
  proxy = std::make_unique<Proxy>(loop, settings, registry);
  store = std::make_unique<ConfigStore>(
      ConfigStore::Callbacks{nullptr, [this](SnapshotPtr s) { proxy->SetSnapshot(s); }});
  address = *proxy->Start();
  auto context = ca.Context(kWaypoint);
  proxy->SetCertificates(context, context);
  WaitForWorkers();
}

Bed::~Bed() { proxy.reset(); }

std::map<std::string, std::string> Bed::Push(const Resources& resources) {
  auto errors = resources.Apply(*store);
  WaitForWorkers();
  return errors;
}

void Bed::WaitForWorkers() {
  bool seen = false;
  proxy->CollectStats([&](std::vector<WorkerStats>) { seen = true; });
  Until([&] { return seen; });
}

bool Bed::Until(const std::function<bool()>& done, milliseconds limit) {
  auto end = std::chrono::steady_clock::now() + limit;
  while (!done()) {
    if (std::chrono::steady_clock::now() >= end) {
      ADD_FAILURE() << "nothing for " << limit.count() << " ms";
      return false;
    }
    loop.RunOnce(milliseconds(5));
  }
  return true;
}

void Bed::RunFor(milliseconds time) {
  // At least so many rounds: on a busy machine the time alone may be one round.
  int rounds = 0;
  auto end = std::chrono::steady_clock::now() + time;
  while (++rounds <= 20 || std::chrono::steady_clock::now() < end) loop.RunOnce(milliseconds(2));
}

http::RequestHead Bed::Head(std::string method, std::string path) {
  http::RequestHead head;
  head.method = std::move(method);
  head.scheme = "http";
  head.authority = "backend.shop";
  head.path = std::move(path);
  return head;
}

std::unique_ptr<ClientCall> Bed::Start(http::ClientConnection* c, http::RequestHead head,
                                       bool end) {
  auto call = std::make_unique<ClientCall>();
  if (c == nullptr) {
    ADD_FAILURE() << "no connection";
    call->closed = true;
    return call;
  }
  // A connection that has just finished its last request may need a round to notice.
  for (int i = 0; i < 6000 && !c->CanOpen(); ++i) loop.RunOnce(milliseconds(5));
  call->stream = c->Open(head, end, call.get());
  if (call->stream == nullptr) {
    ADD_FAILURE() << "the connection takes no request";
    call->closed = true;
  }
  return call;
}

std::unique_ptr<ClientCall> Bed::Call(http::ClientConnection* c, http::RequestHead head,
                                      std::string_view body) {
  if (!body.empty()) head.headers.Set("content-length", std::to_string(body.size()));
  auto call = Start(c, std::move(head), body.empty());
  if (call->stream && !body.empty()) call->stream->SendData(body, true);
  Until([&] { return call->closed || (call->ended && call->has_response); });
  return call;
}

std::unique_ptr<ClientCall> Bed::Get(http::ClientConnection* c, std::string path,
                                     std::vector<std::pair<std::string, std::string>> headers) {
  http::RequestHead head = Head("GET", std::move(path));
  for (auto& [name, value] : headers) head.headers.Add(name, value);
  return Call(c, std::move(head));
}

}  // namespace qanat::waypoint::test
