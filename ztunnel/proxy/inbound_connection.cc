// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/inbound_connection.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <cerrno>

#include "common/base/log.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/route/inbound.h"
#include "ztunnel/route/outbound.h"
#include "ztunnel/telemetry/headers.h"

namespace qanat::ztunnel {
namespace {

using model::Reason;

constexpr auto kIdentifyTimeout = std::chrono::seconds(5);
// Each attempt draws one of about 14,000 ports at random and may meet one that the same client's
// other connections to the same port have: with 4 attempts one in sixty failed at 5,000
// connections; 64 serve 12,000.
constexpr int kSpoofAttempts = 64;

int StatusOf(Reason reason) { return model::IsPolicy(reason) ? 401 : 503; }

}  // namespace

InboundConnection::InboundConnection(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer,
                                     net::SocketAddress target)
    : Connection(worker, std::move(pod)), fd_(std::move(fd)), started_(event::Clock::now()) {
  flow_.reporter = Reporter::kDestination;
  flow_.source = peer;
  flow_.destination = flow_.target = target;
  worker_.open_sockets(Reporter::kDestination).Add();
}

InboundConnection::InboundConnection(Worker& worker, PodPtr pod, net::SocketAddress peer,
                                     net::SocketAddress tunnel, model::Identity peer_identity,
                                     hbone::InboundConnect request, hbone::Responder responder)
    : Connection(worker, std::move(pod)),
      request_(std::move(request)),
      responder_(std::move(responder)),
      started_(event::Clock::now()) {
  flow_.reporter = Reporter::kDestination;
  flow_.source = peer;
  flow_.destination = tunnel;
  flow_.tunnelled = true;
  flow_.mutual_tls = true;
  flow_.source_identity = std::move(peer_identity);
  worker_.open_sockets(Reporter::kDestination).Add();
}

InboundConnection::~InboundConnection() { worker_.open_sockets(Reporter::kDestination).Sub(); }

void InboundConnection::Start() {
  if (!plaintext()) {
    responder_.OnGone([this] { End(Reason::kReset, "the client gave up", false); });
  } else if (IsProxyPort(flow_.target.port())) {
    return Refuse(Reason::kSelfCall, 503,
                  fmt::format("{} is a port of the proxy", flow_.target.ToString()));
  }
  TryIdentify();
}

void InboundConnection::TryIdentify() {
  Identified found = worker_.Identify(*pod_);
  if (found.reason == Reason::kNone) {
    timer_.reset();
    return Decide(found.workload);
  }
  if (found.reason == Reason::kAddressMismatch) {
    worker_.environment().reread_addresses(pod_->uid);
  } else {
    found.reason = Reason::kDestinationUnknown;
  }
  last_failure_ = std::move(found);
  if (timer_ != nullptr) return;
  timer_ = std::make_unique<event::Timer>(
      worker_.loop(), [this] { Refuse(last_failure_.reason, 503, last_failure_.detail); });
  timer_->Start(kIdentifyTimeout);
}

void InboundConnection::Decide(const model::WorkloadPtr& local) {
  flow_.destination_workload = local;
  // For labels and the log only: an address proves nothing.
  flow_.source_workload = worker_.snapshot().WorkloadByAddress(local->network, flow_.source.ip());
  if (!plaintext()) {
    flow_.destination_identity = local->identity();
    InboundTarget target = DecideInbound(worker_.snapshot(), *local, flow_.destination,
                                         request_.authority, request_.forwarded());
    flow_.target = target.target;
    flow_.service = target.service;
    if (target.reason != Reason::kNone) {
      return Refuse(target.reason, target.status, std::move(target.detail));
    }
  }
  const policy::Decision decision = Check(*local);
  if (!decision.dry_run.empty()) {
    LOG_INFO("access", "dry run: policy {} would refuse {} to {}", decision.dry_run,
             flow_.source.ToString(), flow_.target.ToString());
  }
  if (!decision.allowed) {
    return Refuse(decision.reason, 401,
                  fmt::format("{} {}", Explanation(decision.reason), decision.policy));
  }
  state_ = State::kConnecting;
  Connect(worker_.environment().config.orig_src.value_or(true));
}

policy::Decision InboundConnection::Check(const model::Workload& local) const {
  return worker_.CheckPolicy(
      local, {flow_.source_identity, flow_.source.ip(), flow_.target.ip(), flow_.target.port()});
}

void InboundConnection::OnSnapshot() {
  if (state_ == State::kOver) return;
  if (state_ == State::kIdentifying) return TryIdentify();
  const Identified found = worker_.Identify(*pod_);
  // Not announced any more is no reason by itself: the pod's end comes from the node agent.
  if (found.reason == Reason::kSourceUnknown) return;
  if (found.reason != Reason::kNone) return Close(Reason::kIdentityChanged, found.detail);
  const policy::Decision decision = Check(*found.workload);
  if (!decision.allowed) {
    Close(decision.reason, fmt::format("policy changed: {}", decision.policy));
  }
}

// ---- to the application

void InboundConnection::Connect(bool spoof) {
  net::ConnectOptions options;
  options.to = flow_.target;
  options.mark = worker_.environment().config.packet_mark;
  options.netns = pod_->netns.get();
  // The application sees the client's address. A pod that calls itself keeps its own.
  spoof = spoof && flow_.source.ip() != flow_.target.ip() &&
          flow_.source.ip().family() == flow_.target.ip().family();
  if (spoof) {
    options.bind = net::SocketAddress(flow_.source.ip(), 0);
    options.transparent = true;
  }
  connector_ = std::make_unique<net::Connector>(
      worker_.loop(), options, [this, spoof](Result<Fd> fd) { OnConnected(std::move(fd), spoof); });
}

void InboundConnection::OnConnected(Result<Fd> fd, bool spoofed) {
  auto connector = std::move(connector_);
  if (!fd) {
    const Error& error = fd.error();
    // The port that came with the foreign address made a connection that exists already.
    if (spoofed && (error.sys_errno == EADDRNOTAVAIL || error.sys_errno == EADDRINUSE) &&
        ++attempts_ < kSpoofAttempts) {
      return Connect(true);
    }
    // Without the capability for foreign sources the connection still works, unless it was asked
    // for (ENABLE_ORIG_SRC=true).
    if (spoofed && error.sys_errno == EPERM && !worker_.environment().config.orig_src) {
      LOG_WARN("inbound", "{}; the application will see the proxy's address", error.message);
      return Connect(false);
    }
    const Reason reason = error.code == Code::kDeadlineExceeded    ? Reason::kConnectTimeout
                          : error.code == Code::kResourceExhausted ? Reason::kResourceExhausted
                                                                   : Reason::kConnectFailed;
    return Refuse(reason, 503, error.message);
  }
  StartRelay(net::MakeSocketTransport(worker_.loop(), std::move(*fd)));
}

void InboundConnection::StartRelay(net::TransportPtr application) {
  net::TransportPtr client;
  if (plaintext()) {
    net::SetStreamOptions(fd_.get());
    client = net::MakeSocketTransport(worker_.loop(), std::move(fd_));
  } else {
    hbone::Headers headers;
    if (worker_.environment().config.response_baggage) {
      headers.push_back({"baggage", MakeBaggage(*flow_.destination_workload)});
    }
    client = responder_.Accept(headers);
    if (client == nullptr) return End(Reason::kReset, "the client gave up", false);
  }
  state_ = State::kRelaying;
  const Series& series = worker_.series().For(flow_, Reason::kNone);
  series.opened->Add();
  relay_ = std::make_unique<Relay>(
      worker_.relay_shared(), std::move(client), std::move(application),
      Relay::Counters{series.received, series.sent},
      [this](const Relay::Result& result) { End(result.reason, result.error, true); });
  relay_->Start();
}

// ---- the end

void InboundConnection::Refuse(Reason reason, int status, std::string detail) {
  if (state_ == State::kOver) return;
  linger reset{1, 0};
  if (fd_) setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  if (responder_.pending()) responder_.Reject(status);
  End(reason, std::move(detail), false);
}

void InboundConnection::Close(Reason reason, const std::string& detail) {
  if (state_ == State::kOver) return;
  if (relay_ == nullptr) return Refuse(reason, StatusOf(reason), detail);
  relay_->Abort();
  End(reason, detail.empty() ? std::string(Explanation(reason)) : detail, true);
}

void InboundConnection::End(Reason reason, std::string error, bool opened) {
  if (state_ == State::kOver) return;
  state_ = State::kOver;
  FlowEnd end;
  end.reason = reason;
  end.error = std::move(error);
  end.opened = opened;
  end.duration =
      std::chrono::duration_cast<std::chrono::milliseconds>(event::Clock::now() - started_);
  if (relay_) {
    end.bytes_up = relay_->bytes_up();
    end.bytes_down = relay_->bytes_down();
  }
  worker_.LogFlow(flow_, end);
  timer_.reset();
  connector_.reset();
  fd_.Reset();
  responder_ = hbone::Responder();
  worker_.Release(this);
}

std::optional<ConnectionInfo> InboundConnection::Describe() const {
  if (relay_ == nullptr || state_ == State::kOver) return std::nullopt;
  return ConnectionInfo{pod_->uid, flow_, plaintext() ? "plain" : "hbone", relay_->bytes_up(),
                        relay_->bytes_down()};
}

}  // namespace qanat::ztunnel
