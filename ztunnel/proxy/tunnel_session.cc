// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/tunnel_session.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/base/log.h"
#include "common/hbone/patience.h"
#include "ztunnel/memory/budget.h"
#include "ztunnel/proxy/inbound_connection.h"
#include "ztunnel/proxy/worker.h"

namespace qanat::ztunnel {
namespace {

using model::Reason;

constexpr auto kIdentifyTimeout = std::chrono::seconds(5);

}  // namespace

TunnelSession::TunnelSession(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer,
                             net::SocketAddress local)
    : Connection(worker, std::move(pod)), fd_(std::move(fd)), peer_(peer), local_(local) {}

TunnelSession::TunnelSession(Worker& worker, PodPtr pod, const SavedTunnel::Inbound& saved)
    : Connection(worker, std::move(pod)),
      state_(State::kFrozen),
      peer_(saved.peer),
      local_(saved.local) {
  if (auto own = model::Identity::Parse(saved.own_identity)) own_identity_ = std::move(*own);
  peer_identity_ = Share(model::Identity::Parse(saved.peer_identity));
}

TunnelSession::~TunnelSession() = default;

void TunnelSession::Start() {
  // Its streams could only be refused, each after a handshake.
  if (const std::string full = MemoryFull(worker_.loop().memory(), pod_->load->memory);
      !full.empty()) {
    return Fail(Reason::kMemoryExhausted, full);
  }
  TryIdentify();
}

void TunnelSession::OnSnapshot() {
  if (state_ == State::kIdentifying) TryIdentify();
}

void TunnelSession::TryIdentify() {
  route::Identified found = worker_.Identify(*pod_);
  if (found.reason != Reason::kNone) {
    last_failure_ = std::move(found);
    if (timer_ != nullptr) return;
    timer_ = std::make_unique<event::Timer>(
        worker_.loop(), [this] { Fail(Reason::kDestinationUnknown, last_failure_.detail); });
    timer_->Start(kIdentifyTimeout);
    return;
  }
  timer_.reset();
  own_identity_ = found.workload->identity();
  if (auto certificate = worker_.FindCertificate(own_identity_)) return Handshake(certificate);
  state_ = State::kCertificate;
  worker_.AwaitCertificate(own_identity_, this);
}

void TunnelSession::OnCertificate(const Result<identity::CertificatePtr>& certificate) {
  if (state_ != State::kCertificate) return;
  if (!certificate) return Fail(Reason::kNoCertificate, certificate.error().message);
  Handshake(*certificate);
}

void TunnelSession::Handshake(const identity::CertificatePtr& certificate) {
  state_ = State::kHandshake;
  tls::HandshakeOptions options;
  options.role = tls::Role::kServer;
  options.shared = &worker_.handshakes();
  handshake_ = std::make_unique<tls::TlsHandshake>(
      net::MakeSocketTransport(worker_.loop(), std::move(fd_)), certificate->server, options,
      [this](Result<tls::TlsConnection> result) { OnHandshake(std::move(result)); });
}

void TunnelSession::OnHandshake(Result<tls::TlsConnection> result) {
  auto handshake = std::move(handshake_);
  if (!result) {
    const Error& error = result.error();
    return Fail(error.sys_errno == tls::kRevoked         ? Reason::kCertificateRevoked
                : error.code == Code::kResourceExhausted ? Reason::kResourceExhausted
                                                         : Reason::kTlsFailure,
                error.message);
  }
  auto identity = model::Identity::Parse(result->peer.identity);
  if (!identity) {
    return Fail(
        Reason::kPeerIdentityMismatch,
        fmt::format("the peer's identity \"{}\" is not a workload's", result->peer.identity));
  }
  peer_identity_ = worker_.Shared(std::move(*identity));
  proven_ = result->peer.verified;
  state_ = State::kOpen;
  session_ =
      std::make_unique<hbone::ServerSession>(std::move(result->transport), Options(), Events());
}

hbone::SessionOptions TunnelSession::Options() const {
  const Config& config = worker_.environment().config;
  hbone::SessionOptions options;
  options.stream_window = config.stream_window;
  options.connection_window = config.connection_window;
  options.max_frame_size = config.frame_size;
  options.takes_source = config.shared_tunnels;
  options.takes_early = config.early_data;
  options.patience = hbone::Patience::kUsual;
  return options;
}

hbone::ServerSession::Events TunnelSession::Events() {
  hbone::ServerSession::Events events;
  events.on_connect = [this](hbone::InboundConnect request, hbone::Responder responder) {
    OnConnect(std::move(request), std::move(responder));
  };
  events.on_closed = [this](const hbone::CloseReason& reason) {
    worker_.environment().pools->CountInbound(reason.abuse);
    if (reason.failed) {
      worker_.CountTunnelError(Reason::kHttp2Failure);
      LOG_DEBUG("inbound", "tunnel from {} ended: {} ({})", peer_.ToString(), reason.message,
                hbone::H2ErrorName(static_cast<uint32_t>(reason.code)));
    }
    End();
  };
  return events;
}

void TunnelSession::OnConnect(hbone::InboundConnect request, hbone::Responder responder) {
  unused_since_ = {};
  auto connection = std::make_unique<InboundConnection>(worker_, pod_, peer_, local_,
                                                        Proven{peer_identity_, proven_},
                                                        std::move(request), std::move(responder));
  InboundConnection& stream = *connection;
  worker_.Adopt(std::move(connection));
  stream.Start();
}

void TunnelSession::OnRevocations() {
  if (proven_ == nullptr || state_ == State::kOver) return;
  const auto why = worker_.handshakes().verifier.Revoked(*proven_);
  if (!why) return;
  worker_.CountTunnelError(Reason::kCertificateRevoked);
  LOG_WARN("inbound", "tunnel from {} ended: {}", peer_.ToString(), *why);
  Close(Reason::kCertificateRevoked, *why);
}

// Its streams may end in their own time; the next tunnel is made anew.
void TunnelSession::OnLostRoot(const identity::WorkloadCertificate& certificate) {
  if (proven_ == nullptr || session_ == nullptr || certificate.identity != own_identity_) return;
  const std::string root = proven_->path.back().ToPem();
  const bool believed =
      std::any_of(certificate.roots.begin(), certificate.roots.end(),
                  [&](const identity::CertificateInfo& one) { return one.pem == root; });
  if (!believed) session_->Drain();
}

void TunnelSession::Drain() {
  if (session_) return session_->Drain();
  if (state_ == State::kFrozen) {
    drain_later_ = true;
    return;
  }
  Close(Reason::kDraining, "");
}

void TunnelSession::LookAtIdleness(event::TimePoint now) {
  const auto limit = worker_.environment().config.idle_tunnel_timeout;
  if (session_ == nullptr || limit.count() == 0) return;
  if (session_->streams() > 0) {
    unused_since_ = {};
  } else if (unused_since_ == event::TimePoint{}) {
    unused_since_ = now;
  } else if (now - unused_since_ >= limit) {
    LOG_DEBUG("inbound", "tunnel from {} is unused: closed", peer_.ToString());
    unused_since_ = now;
    session_->Drain();
  }
}

void TunnelSession::Fail(Reason reason, const std::string& detail) {
  if (state_ == State::kOver) return;
  worker_.CountTunnelError(reason);
  Flow flow;
  flow.reporter = Reporter::kDestination;
  flow.source = peer_;
  flow.destination = local_;
  flow.destination_workload = worker_.Identify(*pod_).workload;
  FlowEnd end;
  end.reason = reason;
  end.error = detail;
  end.opened = false;
  end.early = true;
  worker_.LogFlow(flow, end);
  End();
}

void TunnelSession::Close(Reason reason, const std::string& detail) {
  if (state_ == State::kFrozen) {
    close_later_.emplace(reason, detail);
    return;
  }
  if (session_) {
    session_->Close(detail.empty() ? Explanation(reason) : std::string_view(detail));
  }
  End();
}

void TunnelSession::End() {
  if (state_ == State::kOver) return;
  state_ = State::kOver;
  timer_.reset();
  handshake_.reset();
  fd_.Reset();
  worker_.Release(this);  // the session goes with this object, after the present round
}

// ---- hand-over

SavedTunnel TunnelSession::Freeze(net::TransportPtr& transport) {
  SavedTunnel out;
  out.pod_uid = pod_->uid;
  out.netns_cookie = pod_->netns_cookie;
  out.inbound =
      SavedTunnel::Inbound{peer_, local_, own_identity_.ToString(), peer_identity_->ToString()};
  out.session = session_->Export(transport);
  session_.reset();
  state_ = State::kFrozen;
  return out;
}

void TunnelSession::Resume(net::TransportPtr transport, hbone::SavedSession saved,
                           tls::VerifiedPeerPtr proven, std::vector<net::TransportPtr>& streams) {
  proven_ = std::move(proven);
  state_ = State::kOpen;
  session_ = std::make_unique<hbone::ServerSession>(std::move(transport), Options(), Events(),
                                                    std::move(saved), streams);
}

void TunnelSession::CheckAgain() {
  if (state_ != State::kOpen) return;
  if (const auto close = std::exchange(close_later_, std::nullopt)) {
    return Close(close->first, close->second);
  }
  if (std::exchange(drain_later_, false)) session_->Drain();
  OnRevocations();
  if (state_ != State::kOpen) return;
  if (const auto certificate = worker_.FindCertificate(own_identity_)) OnLostRoot(*certificate);
}

void TunnelSession::Forget() {
  if (state_ == State::kFrozen) End();
}

}  // namespace qanat::ztunnel
