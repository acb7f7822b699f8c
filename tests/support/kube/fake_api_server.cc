// SPDX-License-Identifier: Apache-2.0
#include "tests/support/kube/fake_api_server.h"

#include <algorithm>
#include <future>
#include <list>
#include <optional>
#include <thread>

#include "common/http/connection.h"
#include "common/net/socket.h"
#include "common/tls/test_certs.h"
#include "tests/support/kube/fake_store.h"

namespace qanat::kube::testing {
namespace {

std::map<std::string, std::string> QueryMap(std::string_view query) {
  std::map<std::string, std::string> out;
  for (auto& [key, value] : http::ParseQuery(query)) out[key] = value;
  return out;
}

}  // namespace

struct FakeApiServer::Impl final : private http::ServerEvents {
  // One request; for a watch as long as it runs.
  struct Exchange final : http::StreamEvents {
    Impl* server = nullptr;
    http::RequestHead head;
    http::ServerStream* stream = nullptr;  // null once it is over
    std::string body;
    std::string token;
    std::unique_ptr<event::Timer> delay;
    std::optional<Selection> watch;
    std::vector<std::string> kept;  // lines, while watches are stalled

    void OnData(std::string_view data, bool end) override {
      body.append(data);
      if (end) server->Handle(*this);
    }
    void OnTrailers(http::HeaderList) override { server->Handle(*this); }
    void OnClosed(http::CloseReason, std::string_view) override {
      stream = nullptr;
      delay.reset();
    }
    void Line(const std::string& line) {
      if (stream == nullptr) return;
      if (server->stalled) {
        kept.push_back(line);
      } else {
        stream->SendData(line + "\n", false);
      }
    }
  };

  explicit Impl(Options o)
      : options(std::move(o)), store([this](const StoreEvent& e) { Tell(e); }) {
    if (options.tls) {
      tls::RequestNames names;
      if (net::IpAddress::Parse(options.name)) {
        names.ip = {options.name};
      } else {
        names.dns = {options.name};
      }
      const auto identity = ca.Issue(names);
      tls::ContextOptions context;
      context.chain = {identity.certificate};
      context.key = identity.key;
      context.roots = {ca.authority.certificate};
      context.alpn = {"http/1.1"};
      if (!options.http1_only) context.alpn.insert(context.alpn.begin(), "h2");
      tls_context = tls::TlsContext::Make(std::move(context)).value();
    }
    Do([this] { Open(*net::SocketAddress::Parse("127.0.0.1:" + std::to_string(options.port))); });
  }
  ~Impl() {
    Do([this] { Close(); });
    thread.Stop();
    exchanges.clear();
  }

  // Runs on the server's thread and waits.
  void Do(const std::function<void()>& task) const {
    std::promise<void> done;
    thread.loop().Post([&] {
      task();
      done.set_value();
    });
    done.get_future().wait();
  }

  void Open(net::SocketAddress at) {
    acceptor = std::make_unique<net::Acceptor>(
        thread.loop(), *net::Listen({.address = at}),
        [this](Fd fd, net::SocketAddress) { Accept(std::move(fd)); });
    at_address = acceptor->local_address();
  }
  void Close() {
    acceptor.reset();
    handshakes.clear();
    for (auto& connection : connections) connection->Close("the test says so");
  }

  void Accept(Fd fd) {
    ++accepted;
    net::TransportPtr socket = net::MakeSocketTransport(thread.loop(), std::move(fd));
    if (!tls_context) return Begin(std::move(socket), false);
    tls::HandshakeOptions handshake;
    handshake.role = tls::Role::kServer;
    handshake.peer.client_certificate = tls::PeerPolicy::ClientCertificate::kNone;
    auto slot = handshakes.emplace(handshakes.end());
    *slot = std::make_unique<tls::TlsHandshake>(
        std::move(socket), tls_context, handshake, [this, slot](Result<tls::TlsConnection> r) {
          if (r) Begin(std::move(r->transport), r->peer.alpn == "h2");
          slot->reset();
        });
  }
  void Begin(net::TransportPtr transport, bool h2) {
    http::Options limits;
    limits.max_concurrent_streams = options.max_streams;
    limits.max_header_bytes = 64 * 1024;
    connections.push_back(h2 ? http::MakeHttp2Server(std::move(transport), this, limits)
                             : http::MakeHttp1Server(std::move(transport), this, limits));
  }
  void OnRequest(http::ServerStream& stream, http::RequestHead head, bool end) override {
    auto exchange = std::make_unique<Exchange>();
    exchange->server = this;
    exchange->head = std::move(head);
    exchange->stream = &stream;
    exchanges.push_back(std::move(exchange));
    Exchange& ref = *exchanges.back();
    stream.SetEvents(&ref);
    if (end) Handle(ref);
  }
  void OnConnectionClosed(http::ServerConnection& connection, bool, std::string_view) override {
    for (auto it = connections.begin(); it != connections.end(); ++it) {
      if (it->get() != &connection) continue;
      thread.loop().DeferDelete(std::move(*it));
      connections.erase(it);
      return;
    }
  }

  void Handle(Exchange& x) {
    const std::string authorization(x.head.headers.Get("authorization").value_or(""));
    x.token = authorization.starts_with("Bearer ") ? authorization.substr(7) : authorization;
    seen.push_back({x.head.method, std::string(x.head.PathOnly()), std::string(x.head.Query()),
                    x.body, std::string(x.head.headers.Get("content-type").value_or("")), x.token});
    for (auto it = faults.begin(); it != faults.end(); ++it) {
      if (!it->method.empty() && it->method != x.head.method) continue;
      if (x.head.path.find(it->path_part) == std::string::npos) continue;
      Fault fault = *it;
      if (it->count > 0) --it->count;
      if (it->count == 0) faults.erase(it);
      return Spoil(x, fault);
    }
    Answer(x);
  }

  void Spoil(Exchange& x, const Fault& fault) {
    if (fault.stall) return;
    if (fault.delay.count() > 0) {
      Fault rest = fault;
      rest.delay = {};
      x.delay = std::make_unique<event::Timer>(thread.loop(), [this, &x, rest] { Spoil(x, rest); });
      return x.delay->Start(fault.delay);
    }
    if (x.stream == nullptr) return;
    if (fault.drop) {
      for (auto& connection : connections) connection->Close("a fault");
      return;
    }
    if (fault.refuse) return x.stream->Reset(http::ResetCode::kRefused);
    if (fault.status == 0) return Answer(x);
    const std::string body = fault.body.empty()
                                 ? StatusResponse(fault.status, fault.reason, fault.message).body
                                 : fault.body;
    Send(x, {fault.status, body}, fault.retry_after);
  }

  void Answer(Exchange& x) {
    if (x.stream == nullptr) return;
    if (!required_token.empty() && x.token != required_token) {
      return Send(x, StatusResponse(401, "Unauthorized", "Unauthorized"));
    }
    const std::string path = http::PercentDecode(x.head.PathOnly(), false);
    const auto query = QueryMap(x.head.Query());
    const auto watch = query.find("watch");
    if (watch != query.end() && (watch->second == "true" || watch->second == "1")) {
      return BeginWatch(x, path, query);
    }
    Send(x, store.Handle(x.head.method, path, query, x.body,
                         std::string(x.head.headers.Get("content-type").value_or(""))));
  }

  void Send(Exchange& x, const StoreResponse& response, int retry_after = -1) {
    http::ResponseHead head;
    head.status = response.status;
    head.headers.Add("content-type", "application/json");
    if (retry_after >= 0) head.headers.Add("retry-after", std::to_string(retry_after));
    x.stream->SendResponse(head, false);
    x.stream->SendData(response.body, true);
  }

  void BeginWatch(Exchange& x, const std::string& path,
                  const std::map<std::string, std::string>& query) {
    const Selection selection = FakeStore::Select(path, query);
    if (store.Absent(path)) {
      return Send(x, {404, "404 page not found\n"});
    }
    const auto it = query.find("resourceVersion");
    const std::string from = it == query.end() ? "" : it->second;
    const uint64_t version = std::strtoull(from.c_str(), nullptr, 10);
    const bool expired = version != 0 && store.Expired(version);
    const StoreResponse gone = StatusResponse(410, "Expired", "too old resource version: " + from);
    if (expired && expired_by_status) return Send(x, gone);
    http::ResponseHead head;
    head.status = 200;
    head.headers.Add("content-type", "application/json");
    x.stream->SendResponse(head, false);
    if (expired) {
      x.stream->SendData(R"({"type":"ERROR","object":)" + gone.body + "}\n", true);
      return;
    }
    x.watch = selection;
    if (version == 0) {
      for (const Json& object : store.All(selection)) {
        x.Line(Json{{"type", "ADDED"}, {"object", object}}.dump());
      }
      return;
    }
    for (const StoreEvent& event : store.Since(version)) Tell(x, event);
  }

  void Tell(const StoreEvent& event) {
    for (const auto& x : exchanges) {
      if (x->watch) Tell(*x, event);
    }
  }
  static void Tell(Exchange& x, const StoreEvent& event) {
    const std::string type = x.watch->TypeOf(event);
    if (type.empty()) return;
    Json object = type == "DELETED" ? event.before : event.after;
    object["metadata"]["resourceVersion"] = std::to_string(event.version);
    x.Line(Json{{"type", type}, {"object", object}}.dump());
  }
  void EachWatch(const std::function<void(Exchange&)>& each) {
    for (const auto& x : exchanges) {
      if (x->watch && x->stream != nullptr) each(*x);
    }
  }

  Options options;
  tls::testing::TestCa ca = tls::testing::TestCa::Make("kubernetes");
  tls::TlsContextPtr tls_context;
  mutable event::LoopThread thread{"fake-kube"};
  // Below: the server's thread only.
  FakeStore store;
  std::unique_ptr<net::Acceptor> acceptor;
  net::SocketAddress at_address;
  std::list<std::unique_ptr<tls::TlsHandshake>> handshakes;
  std::list<std::unique_ptr<Exchange>> exchanges;  // outlive the connections
  std::list<http::ServerConnectionPtr> connections;
  std::list<Fault> faults;
  std::vector<SeenRequest> seen;
  std::string required_token;
  size_t accepted = 0;
  bool stalled = false;
  bool expired_by_status = false;
};

FakeApiServer::FakeApiServer(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}
FakeApiServer::~FakeApiServer() = default;

ClientConfig FakeApiServer::Config() const {
  ClientConfig out;
  out.server = (impl_->options.tls ? "https://" : "http://") + address();
  if (impl_->options.tls) out.ca_pem = impl_->ca.authority.certificate.ToPem();
  if (impl_->options.name != "127.0.0.1") out.tls_server_name = impl_->options.name;
  out.token = "test-token";
  out.origin = "fake API server";
  return out;
}

std::string FakeApiServer::address() const {
  std::string out;
  impl_->Do([&] { out = impl_->at_address.ToString(); });
  return out;
}

std::string FakeApiServer::Kubeconfig() const {
  const ClientConfig config = Config();
  std::string out =
      "apiVersion: v1\nkind: Config\ncurrent-context: fake\ncontexts:\n"
      "- name: fake\n  context: {cluster: fake, user: fake}\nclusters:\n- name: fake\n"
      "  cluster:\n    server: " +
      config.server + "\n";
  if (!config.ca_pem.empty()) {
    out += "    certificate-authority-data: " + tls::Base64Encode(config.ca_pem) + "\n";
  }
  return out + "users:\n- name: fake\n  user: {token: test-token}\n";
}

void FakeApiServer::RequireToken(const std::string& token) {
  impl_->Do([&] { impl_->required_token = token; });
}
void FakeApiServer::Put(const std::string& path, const std::string& json) {
  impl_->Do([&] { impl_->store.Put(path, Json::parse(json)); });
}
void FakeApiServer::Remove(const std::string& path) {
  impl_->Do([&] { impl_->store.Remove(path); });
}
std::string FakeApiServer::Get(const std::string& path) const {
  std::string out;
  impl_->Do([&] {
    const Json object = impl_->store.Find(path);
    if (!object.is_null()) out = object.dump();
  });
  return out;
}
std::vector<std::string> FakeApiServer::List(const std::string& path) const {
  std::vector<std::string> out;
  impl_->Do([&] {
    for (const Json& object : impl_->store.All(FakeStore::Select(path, {}))) {
      out.push_back(object.dump());
    }
  });
  return out;
}
void FakeApiServer::AddToken(const std::string& token, const std::string& username,
                             const std::vector<std::string>& audiences,
                             const std::vector<std::pair<std::string, std::string>>& extra) {
  FakeStore::User user{username, {}, audiences};
  for (const auto& [key, value] : extra) user.extra[key].push_back(value);
  impl_->Do([&] { impl_->store.tokens[token] = user; });
}
void FakeApiServer::SetDocument(const std::string& path, const std::string& json) {
  impl_->Do([&] { impl_->store.documents[path] = json; });
}
void FakeApiServer::SetAbsent(const std::string& plural, bool absent) {
  impl_->Do([&] {
    if (absent) {
      impl_->store.absent.insert(plural);
    } else {
      impl_->store.absent.erase(plural);
    }
  });
}
void FakeApiServer::AddFault(Fault fault) {
  impl_->Do([&] { impl_->faults.push_back(fault); });
}
void FakeApiServer::ClearFaults() {
  impl_->Do([&] { impl_->faults.clear(); });
}
void FakeApiServer::Expire() {
  impl_->Do([&] { impl_->store.Expire(); });
}
void FakeApiServer::DropConnections() {
  impl_->Do([&] {
    for (auto& connection : impl_->connections) connection->Close("the test says so");
  });
}
void FakeApiServer::GoAway() {
  impl_->Do([&] {
    for (auto& connection : impl_->connections) connection->Drain();
  });
}
void FakeApiServer::Freeze(std::chrono::milliseconds time) {
  impl_->thread.loop().Post([time] { std::this_thread::sleep_for(time); });
}
void FakeApiServer::Listen(bool on) {
  impl_->Do([&] {
    if (on) {
      impl_->Open(impl_->at_address);
    } else {
      impl_->Close();
    }
  });
}
size_t FakeApiServer::watches() const {
  size_t out = 0;
  impl_->Do([&] { impl_->EachWatch([&](Impl::Exchange&) { ++out; }); });
  return out;
}
void FakeApiServer::EndWatches() {
  impl_->Do([&] {
    impl_->EachWatch([](Impl::Exchange& x) {
      x.stream->SendData({}, true);
      x.watch.reset();
    });
  });
}
void FakeApiServer::SendLine(const std::string& line) {
  impl_->Do([&] { impl_->EachWatch([&](Impl::Exchange& x) { x.Line(line); }); });
}
void FakeApiServer::SendBookmarks() {
  impl_->Do([&] {
    const Json object = {
        {"kind", "Bookmark"},
        {"metadata", {{"resourceVersion", std::to_string(impl_->store.version())}}}};
    const std::string line = Json{{"type", "BOOKMARK"}, {"object", object}}.dump();
    impl_->EachWatch([&](Impl::Exchange& x) { x.Line(line); });
  });
}
void FakeApiServer::StallWatches(bool on) {
  impl_->Do([&] {
    impl_->stalled = on;
    if (on) return;
    impl_->EachWatch([](Impl::Exchange& x) {
      for (const std::string& line : std::exchange(x.kept, {})) x.Line(line);
    });
  });
}
void FakeApiServer::ExpiredByStatus(bool on) {
  impl_->Do([&] { impl_->expired_by_status = on; });
}
std::vector<SeenRequest> FakeApiServer::requests() const {
  std::vector<SeenRequest> out;
  impl_->Do([&] { out = impl_->seen; });
  return out;
}
size_t FakeApiServer::CountRequests(const std::string& method, const std::string& part) const {
  const std::vector<SeenRequest> all = requests();
  return static_cast<size_t>(std::count_if(all.begin(), all.end(), [&](const SeenRequest& r) {
    return (method.empty() || r.method == method) &&
           (r.path + "?" + r.query).find(part) != std::string::npos;
  }));
}
size_t FakeApiServer::connections() const {
  size_t out = 0;
  impl_->Do([&] { out = impl_->accepted; });
  return out;
}

}  // namespace qanat::kube::testing
