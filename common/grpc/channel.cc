// SPDX-License-Identifier: Apache-2.0
#include "common/grpc/channel.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "common/base/log.h"
#include "common/grpc/channel_impl.h"

namespace qanat::grpc {
namespace {

// A server that goes on calling PINGs too many, or means something else: where doubling ends.
constexpr std::chrono::milliseconds kSlowestPing{600'000};

struct Keepalive {
  int idle = 300, interval = 75, count = 9;  // stock ztunnel's
  int lost_after_ms = 0;                     // 0 = the kernel's way
};

void SetChannelKeepalive(int fd, const Keepalive& keepalive) {
  const auto& [idle, interval, count, lost_after_ms] = keepalive;
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
  if (lost_after_ms > 0) {
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &lost_after_ms, sizeof lost_after_ms);
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// In whole seconds, as the kernel counts. Who does not answer is lost when a PING's answer would be
// missed, not a slow PING later.
Keepalive ProbesInPlaceOfPings(const ChannelOptions& options) {
  const auto each = std::chrono::ceil<std::chrono::seconds>(options.ping_interval);
  Keepalive out;
  out.idle = out.interval = std::max(1, static_cast<int>(each.count()));
  out.lost_after_ms = static_cast<int>(options.ping_timeout.count());
  return out;
}

CallStatus ConnectionError(std::string message) {
  return {StatusCode::kUnavailable, std::move(message), true};
}

}  // namespace

Channel::Impl::Impl(event::EventLoop& loop, ChannelOptions options)
    : loop_(loop),
      options_(std::move(options)),
      endpoint_(ParseEndpoint(options_.endpoint)),
      ping_interval_(options_.ping_interval),
      resolver_(loop),
      pump_(loop, [this] { Pump(); }),
      connect_timer_(
          loop,
          [this] {
            ConnectFailed({Code::kDeadlineExceeded,
                           "timed out after " + std::to_string(options_.connect_timeout.count()) +
                               " ms while " + phase_,
                           0});
          }),
      idle_timer_(loop, [this] {
        if (connection_ && connection_->active_streams() == 0) connection_->Drain();
      }) {}

void Channel::Impl::Add(CallImpl* call) {
  waiting_.push_back(call);
  idle_timer_.Stop();
  Schedule();
}

void Channel::Impl::Remove(CallImpl* call) {
  waiting_.remove(call);
  // The idle check runs from the pump as well.
  Schedule();
}

void Channel::Impl::Shutdown() {
  shut_down_ = true;
  DropAttempt();
  pump_.Stop();
  idle_timer_.Stop();
}

void Channel::Impl::Disconnect(std::string_view why) {
  if (connection_) connection_->Close(why);
}

// Brings waiting calls and the connection together. Runs from the loop only, so calls may be closed
// here. Any callback may destroy any call, so the list is looked at anew each time.
void Channel::Impl::Pump() {
  const auto self = shared_from_this();
  if (shut_down_) return;
  if (connection_ && connection_->Finished()) old_.push_back(std::move(connection_));
  while (!waiting_.empty() && connection_ && connection_->CanOpen()) {
    CallImpl* call = waiting_.front();
    waiting_.pop_front();
    if (!call->Attach(*connection_)) {
      waiting_.push_front(call);
      break;
    }
  }
  if (!waiting_.empty() && !connection_ && !connecting_) BeginConnect();
  if (options_.idle_timeout.count() > 0 && waiting_.empty() && connection_ &&
      connection_->active_streams() == 0 && !idle_timer_.armed()) {
    idle_timer_.Start(options_.idle_timeout);
  }
}

void Channel::Impl::BeginConnect() {
  connecting_ = true;
  last_error_.reset();
  if (!endpoint_) return ConnectFailed(endpoint_.error());
  connect_timer_.Start(options_.connect_timeout);
  phase_ = "resolving " + endpoint_->host;
  query_ = resolver_.Resolve(endpoint_->host, [this](Result<std::vector<net::IpAddress>> result) {
    if (!result) return ConnectFailed(result.error());
    addresses_ = std::move(*result);
    next_address_ = 0;
    TryNextAddress();
  });
}

void Channel::Impl::TryNextAddress() {
  if (next_address_ >= addresses_.size()) {
    return ConnectFailed(last_error_.value_or(Error{Code::kUnavailable, "no address", 0}));
  }
  net::ConnectOptions connect;
  connect.to = net::SocketAddress(addresses_[next_address_++], endpoint_->port);
  connect.mark = options_.mark;
  connect.netns = options_.netns;
  connect.timeout = options_.connect_timeout;
  phase_ = "connecting to " + connect.to.ToString();
  connector_ = std::make_unique<net::Connector>(loop_, connect,
                                                [this](Result<Fd> fd) { OnTcp(std::move(fd)); });
}

void Channel::Impl::OnTcp(Result<Fd> fd) {
  if (!fd) {
    last_error_ = fd.error().Annotate(phase_);
    return TryNextAddress();
  }
  SetChannelKeepalive(fd->get(), Probes() ? ProbesInPlaceOfPings(options_) : Keepalive{});
  net::TransportPtr socket = net::MakeSocketTransport(loop_, std::move(*fd));
  if (!endpoint_->tls) return OnReady(std::move(socket));
  // Read again for every connection, so that a rotated root needs no restart.
  auto roots = LoadRoots(options_.root_ca);
  if (!roots) return ConnectFailed(roots.error());
  auto context = tls::TlsContext::FromPem({}, {}, *roots);
  if (!context) return ConnectFailed(context.error().Annotate("trust root " + options_.root_ca));
  tls::HandshakeOptions handshake;
  handshake.role = tls::Role::kClient;
  handshake.peer.names = {endpoint_->host};
  if (!options_.alternative_server_name.empty()) {
    handshake.peer.names.push_back(options_.alternative_server_name);
  }
  if (!net::IpAddress::Parse(endpoint_->host)) handshake.server_name = endpoint_->host;
  handshake.timeout = options_.connect_timeout;
  phase_ = "TLS handshake with " + endpoint_->authority;
  handshake_ = std::make_unique<tls::TlsHandshake>(
      std::move(socket), std::move(*context), std::move(handshake),
      [this](Result<tls::TlsConnection> result) {
        if (!result) return ConnectFailed(result.error().Annotate(phase_));
        OnReady(std::move(result->transport));
      });
}

void Channel::Impl::OnReady(net::TransportPtr transport) {
  DropAttempt();
  http::Options options;
  options.max_header_bytes = 64 * 1024;
  options.idle_timeout = {};
  options.stream_window = options_.stream_window;
  options.connection_window = options_.connection_window;
  options.ping_interval = ping_interval_;
  options.ping_timeout = options_.ping_timeout;
  options.ping_while_busy = options_.ping_while_busy;
  connection_ = http::MakeHttp2Client(std::move(transport), this, options);
  last_heard_.reset();
  ready_at_ = event::Clock::now();
  LOG_DEBUG("grpc", "connected to {}", endpoint_->authority);
  Schedule();
}

void Channel::Impl::DropAttempt() {
  connecting_ = false;
  connect_timer_.Stop();
  // They may be on the stack: they allow to be destroyed by their own callback.
  query_.reset();
  connector_.reset();
  handshake_.reset();
}

void Channel::Impl::ConnectFailed(const Error& error) {
  const auto self = shared_from_this();
  CallStatus status = ConnectionError(options_.endpoint + ": " + error.message);
  if (error.code == Code::kInvalidArgument) status.code = StatusCode::kInternal;
  DropAttempt();  // may free what `error` refers to
  FailWaiting(status);
}

void Channel::Impl::FailWaiting(const CallStatus& status) {
  // Only those that wait now: what a callback adds goes to the end and is a new attempt. A callback
  // may also destroy calls: they take themselves out of the list.
  const size_t count = waiting_.size();
  for (size_t i = 0; i < count && !waiting_.empty(); ++i) {
    CallImpl* call = waiting_.front();
    waiting_.pop_front();
    call->Close(status);
  }
}

void Channel::Impl::OnCalmDown(http::ClientConnection& connection) {
  // An old connection's PINGs were those that have been slowed already.
  if (&connection != connection_.get() || ping_interval_.count() == 0) return;
  const auto before = ping_interval_;
  ping_interval_ =
      std::max(before, std::min(std::max(2 * before, options_.calm_ping_interval), kSlowestPing));
  if (ping_interval_ == before) return;
  LOG_INFO("grpc", "{} calls a PING each {} ms too many: one each {} ms from now on",
           options_.endpoint, before.count(), ping_interval_.count());
}

std::optional<event::TimePoint> Channel::Impl::last_heard() const {
  if (!connection_) return std::nullopt;
  if (!Probes()) return last_heard_;
  // The kernel answers for a program that hangs, too, and a proxy's for a server behind it that is
  // gone: for no longer than it takes a PING to show that.
  const event::TimePoint now = event::Clock::now();
  if (now - last_heard_.value_or(ready_at_) > ping_interval_ + options_.ping_timeout) {
    return last_heard_;
  }
  const auto acknowledged = connection_->transport().last_acknowledged();
  if (!acknowledged) return last_heard_;
  const event::TimePoint at = now - *acknowledged;
  return last_heard_ ? std::max(*last_heard_, at) : at;
}

void Channel::Impl::OnConnectionClosed(http::ClientConnection& connection, bool clean,
                                       std::string_view detail) {
  if (!clean) LOG_DEBUG("grpc", "connection to {} lost: {}", options_.endpoint, detail);
  if (connection_.get() == &connection) {
    loop_.DeferDelete(std::move(connection_));
  } else {
    for (auto it = old_.begin(); it != old_.end(); ++it) {
      if (it->get() != &connection) continue;
      loop_.DeferDelete(std::move(*it));
      old_.erase(it);
      break;
    }
  }
  Schedule();
}

namespace {

// Keeps the inside alive until the round is over: the channel may go inside one of its callbacks.
struct Remains final : event::Deferred {
  std::shared_ptr<Channel::Impl> impl;
};

// Collects one message; the call that it holds is the one the user's handle cancels.
class UnaryCall final : public Call, private MessageCallEvents {
 public:
  UnaryCall(Channel& channel, CallOptions options, std::string_view request,
            Channel::UnaryStatusDone done)
      : done_(std::move(done)), call_(channel.Start(std::move(options), this)) {
    call_->Send(request);
    call_->HalfClose();
  }
  void Send(std::string_view) override {}
  void HalfClose() override {}
  void PauseReading(bool) override {}
  size_t buffered() const override { return call_->buffered(); }

 private:
  void OnMessage(std::string message) override {
    response_ = std::move(message);
    ++messages_;
  }
  void OnClosed(const CallStatus& status) override {
    CallStatus out = status;
    if (out.ok() && messages_ != 1) {
      out = {StatusCode::kInternal, "the answer has " + std::to_string(messages_) + " messages",
             false};
    }
    // `done` may destroy this object: nothing of it is used afterwards.
    Channel::UnaryStatusDone done = std::move(done_);
    std::string response = std::move(response_);
    done(std::move(out), std::move(response));
  }
  Channel::UnaryStatusDone done_;
  std::string response_;
  int messages_ = 0;
  CallPtr call_;
};

}  // namespace

Channel::Channel(event::EventLoop& loop, ChannelOptions options)
    : impl_(std::make_shared<Impl>(loop, std::move(options))) {}

Channel::~Channel() {
  impl_->Shutdown();
  event::EventLoop& loop = impl_->loop_;
  auto remains = std::make_unique<Remains>();
  remains->impl = std::move(impl_);
  loop.DeferDelete(std::move(remains));
}

CallPtr Channel::Start(CallOptions options, CallEvents* events) {
  return std::make_unique<CallImpl>(impl_, std::move(options), events);
}

CallPtr Channel::Unary(CallOptions options, std::string_view request, UnaryStatusDone done) {
  return std::make_unique<UnaryCall>(*this, std::move(options), request, std::move(done));
}

const ChannelOptions& Channel::options() const { return impl_->options_; }
event::EventLoop& Channel::loop() const { return impl_->loop_; }
bool Channel::connected() const { return impl_->connected(); }
std::optional<event::TimePoint> Channel::last_heard() const { return impl_->last_heard(); }
std::chrono::milliseconds Channel::ping_interval() const { return impl_->ping_interval_; }
void Channel::Disconnect(std::string_view why) { impl_->Disconnect(why); }

void MessageCallEvents::OnMessageBegin(size_t size) {
  message_.clear();
  // A peer's claim alone must not make us allocate hundreds of megabytes.
  message_.reserve(std::min<size_t>(size, 1 << 20));
}
void MessageCallEvents::OnMessageData(std::string_view piece) { message_.append(piece); }
void MessageCallEvents::OnMessageEnd() { OnMessage(std::exchange(message_, {})); }

}  // namespace qanat::grpc
