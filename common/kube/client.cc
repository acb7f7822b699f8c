// SPDX-License-Identifier: Apache-2.0
// The client's connections. What runs on them is in exchange.cc.
#include "common/kube/client.h"

#include "common/base/log.h"
#include "common/kube/client_impl.h"

namespace qanat::kube {
namespace {

// An HTTP/1.1 connection carries one call or watch; an HTTP/2 connection as many as the server
// says.
constexpr size_t kMaxConnections = 64;
// The API server closes an idle connection after 90 s: we go first, so that no request meets that.
constexpr std::chrono::seconds kIdle{60};

// Keeps the inside alive until the round is over: the client may go inside one of its callbacks.
struct Remains final : event::Deferred {
  std::shared_ptr<Client::Impl> impl;
  std::list<http::ClientConnectionPtr> connections;  // goes first
};

class Listener final : public Handle {
 public:
  Listener(std::shared_ptr<Client::Impl> client, std::function<void()> back)
      : client_(std::move(client)), back_(std::move(back)) {
    client_->listeners_.insert(&back_);
  }
  ~Listener() override { client_->listeners_.erase(&back_); }

 private:
  std::shared_ptr<Client::Impl> client_;
  std::function<void()> back_;
};

}  // namespace

Client::Impl::Impl(event::EventLoop& loop, ClientConfig config, ClientOptions options)
    : loop_(loop),
      config_(std::move(config)),
      options_(options),
      url_(ParseServerUrl(config_.server)),
      token_(config_),
      back_(loop, [this] { TellListeners(); }),
      backoff_({options_.backoff_first, options_.backoff_max, 2.0, 0.2}),
      pump_(loop, [this] { Pump(); }) {}

void Client::Impl::Add(Exchange* exchange, bool first) {
  if (first) {
    waiting_.push_front(exchange);
  } else {
    waiting_.push_back(exchange);
  }
  running_.erase(exchange);
  Schedule();
}

void Client::Impl::Forget(Exchange* exchange) {
  waiting_.remove(exchange);
  running_.erase(exchange);
}

void Client::Impl::Shutdown() {
  shut_down_ = true;
  listeners_.clear();
  back_.Stop();
  pump_.Stop();
  dialer_.reset();
  for (Exchange* exchange : std::exchange(waiting_, {})) exchange->ClientGone();
  for (Exchange* exchange : std::exchange(running_, {})) exchange->ClientGone();
}

bool Client::Impl::connected() const {
  for (const auto& connection : connections_) {
    if (!connection->Finished()) return true;
  }
  return false;
}

void Client::Impl::NoteAnswer() {
  answered_ = true;
  backoff_.Reset();
  next_attempt_ = {};
  last_error_.clear();
  if (std::exchange(away_, false) && !shut_down_) back_.Start({});
}

void Client::Impl::TellListeners() {
  const auto self = shared_from_this();
  // A listener may take itself and others out.
  const std::vector<std::function<void()>*> all(listeners_.begin(), listeners_.end());
  for (std::function<void()>* one : all) {
    if (!listeners_.contains(one)) continue;
    const std::function<void()> call = *one;
    call();
  }
}

std::string Client::Impl::ConnectState() const {
  if (!last_error_.empty()) return "; the last attempt to connect: " + last_error_;
  return connected() ? "" : "; no connection yet";
}

http::ClientConnection* Client::Impl::Usable() {
  for (const auto& connection : connections_) {
    if (connection->CanOpen()) return connection.get();
  }
  return nullptr;
}

bool Client::Impl::MayConnect() const { return !dialer_ && connections_.size() < kMaxConnections; }

// Brings waiting exchanges and connections together. Runs from the loop only, so users may be
// called here. Any callback may destroy any exchange, and the client: all is looked at anew.
void Client::Impl::Pump() {
  const auto self = shared_from_this();
  while (!shut_down_ && !waiting_.empty()) {
    http::ClientConnection* connection = Usable();
    if (connection == nullptr) break;
    Exchange* exchange = waiting_.front();
    waiting_.pop_front();
    running_.insert(exchange);
    if (!exchange->Attach(*connection)) {
      running_.erase(exchange);
      waiting_.push_front(exchange);
      break;
    }
  }
  if (shut_down_ || waiting_.empty() || !MayConnect()) return;
  const event::TimePoint now = event::Clock::now();
  if (now < next_attempt_) {
    pump_.Start(next_attempt_ - now);
  } else {
    BeginConnect();
  }
}

void Client::Impl::BeginConnect() {
  answered_ = false;
  dialer_ = std::make_unique<Dialer>(loop_, config_, std::vector<std::string>{"h2", "http/1.1"},
                                     options_.connect_timeout, [this](Result<kube::Dialed> result) {
                                       const auto self = shared_from_this();
                                       dialer_.reset();
                                       Dialed(std::move(result));
                                     });
}

void Client::Impl::Dialed(Result<kube::Dialed> result) {
  if (!result) {
    if (last_error_ != result.error().message) {
      LOG_DEBUG("kube", "{}: {}", config_.server, result.error().message);
    }
    last_error_ = result.error().message;
    PutOff();
    return FailWaiting(result.error());
  }
  http::Options options;
  options.max_header_bytes = 64 * 1024;
  options.idle_timeout = kIdle;
  options.stream_window = 1 << 20;
  options.connection_window = 4 << 20;
  options.ping_interval = options_.ping_interval;
  options.ping_timeout = options_.ping_timeout;
  connections_.push_back(result->alpn == "h2"
                             ? http::MakeHttp2Client(std::move(result->transport), this, options)
                             : http::MakeHttp1Client(std::move(result->transport), this, options));
  LOG_DEBUG("kube", "connected to {} ({})", config_.server,
            result->alpn.empty() ? "no TLS" : result->alpn);
  last_error_.clear();
  Schedule();
}

void Client::Impl::PutOff() {
  away_ = true;
  next_attempt_ = event::Clock::now() + backoff_.Next();
}

void Client::Impl::FailWaiting(const Error& error) {
  // Only those that wait now: what a callback adds goes to the end and waits for the next attempt.
  // A callback may end what the caller's error is part of.
  const Error copy = error;  // NOLINT(performance-unnecessary-copy-initialization)
  const size_t count = waiting_.size();
  for (size_t i = 0; i < count && !waiting_.empty() && !shut_down_; ++i) {
    Exchange* exchange = waiting_.front();
    waiting_.pop_front();
    exchange->Fail(copy);
  }
  if (!shut_down_ && !waiting_.empty()) Schedule();
}

void Client::Impl::OnConnectionClosed(http::ClientConnection& connection, bool clean,
                                      std::string_view detail) {
  if (!clean) LOG_DEBUG("kube", "connection to {} lost: {}", config_.server, detail);
  for (auto it = connections_.begin(); it != connections_.end(); ++it) {
    if (it->get() != &connection) continue;
    loop_.DeferDelete(std::move(*it));
    connections_.erase(it);
    break;
  }
  // A server that takes connections and answers nothing must not be asked in a tight loop.
  if (!answered_ && connections_.empty()) PutOff();
  Schedule();
}

Client::Client(event::EventLoop& loop, ClientConfig config, ClientOptions options)
    : impl_(std::make_shared<Impl>(loop, std::move(config), options)) {}

Client::~Client() {
  impl_->Shutdown();
  event::EventLoop& loop = impl_->loop_;
  auto remains = std::make_unique<Remains>();
  remains->connections = std::move(impl_->connections_);
  remains->impl = std::move(impl_);
  loop.DeferDelete(std::move(remains));
}

HandlePtr Client::Call(CallRequest request, Done done) {
  return StartCall(impl_, std::move(request), std::move(done));
}
HandlePtr Client::Watch(WatchRequest request, OnLine on_line, OnEnd on_end) {
  return StartWatch(impl_, std::move(request), std::move(on_line), std::move(on_end));
}
HandlePtr Client::OnBack(std::function<void()> back) {
  return std::make_unique<Listener>(impl_, std::move(back));
}
event::EventLoop& Client::loop() const { return impl_->loop_; }
const ClientConfig& Client::config() const { return impl_->config_; }
bool Client::connected() const { return impl_->connected(); }
std::string Client::connection_error() const { return impl_->last_error_; }

Result<CallResponse> CallBlocking(const ClientConfig& config, CallRequest request) {
  event::EventLoop loop;
  Result<CallResponse> out = Fail(Code::kInternal, "no answer");
  {
    ClientOptions options;
    options.connect_timeout = std::min(options.connect_timeout, request.timeout);
    Client client(loop, config, options);
    bool done = false;
    const HandlePtr call = client.Call(std::move(request), [&](Result<CallResponse> result) {
      out = std::move(result);
      done = true;
    });
    while (!done) loop.RunOnce(std::chrono::seconds(1));
  }
  loop.RunOnce({});  // what was handed to DeferDelete
  return out;
}

}  // namespace qanat::kube
