// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/tunnel_session.h"

#include <fmt/format.h>

#include "common/base/log.h"
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

TunnelSession::~TunnelSession() = default;

void TunnelSession::Start() { TryIdentify(); }

void TunnelSession::OnSnapshot() {
  if (state_ == State::kIdentifying) TryIdentify();
}

void TunnelSession::TryIdentify() {
  Identified found = worker_.Identify(*pod_);
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
  net::SetStreamOptions(fd_.get());
  tls::HandshakeOptions options;
  options.role = tls::Role::kServer;
  handshake_ = std::make_unique<tls::TlsHandshake>(
      net::MakeSocketTransport(worker_.loop(), std::move(fd_)), certificate->server, options,
      [this](Result<tls::TlsConnection> result) { OnHandshake(std::move(result)); });
}

void TunnelSession::OnHandshake(Result<tls::TlsConnection> result) {
  auto handshake = std::move(handshake_);
  if (!result) return Fail(Reason::kTlsFailure, result.error().message);
  auto identity = model::Identity::Parse(result->peer.identity);
  if (!identity) {
    return Fail(
        Reason::kPeerIdentityMismatch,
        fmt::format("the peer's identity \"{}\" is not a workload's", result->peer.identity));
  }
  peer_identity_ = std::move(*identity);
  state_ = State::kOpen;
  const Config& config = worker_.environment().config;
  hbone::SessionOptions options;
  options.stream_window = config.stream_window;
  options.connection_window = config.connection_window;
  options.max_frame_size = config.frame_size;
  hbone::ServerSession::Events events;
  events.on_connect = [this](hbone::InboundConnect request, hbone::Responder responder) {
    OnConnect(std::move(request), std::move(responder));
  };
  events.on_closed = [this](const hbone::CloseReason& reason) {
    if (!reason.message.empty()) {
      worker_.CountTunnelError(Reason::kHttp2Failure);
      LOG_DEBUG("inbound", "tunnel from {} ended: {} ({})", peer_.ToString(), reason.message,
                hbone::H2ErrorName(static_cast<uint32_t>(reason.code)));
    }
    End();
  };
  session_ = std::make_unique<hbone::ServerSession>(std::move(result->transport), options,
                                                    std::move(events));
}

void TunnelSession::OnConnect(hbone::InboundConnect request, hbone::Responder responder) {
  auto connection = std::make_unique<InboundConnection>(
      worker_, pod_, peer_, local_, peer_identity_, std::move(request), std::move(responder));
  InboundConnection& stream = *connection;
  worker_.Adopt(std::move(connection));
  stream.Start();
}

void TunnelSession::Drain() {
  if (session_) return session_->Drain();
  Close(Reason::kDraining, "");
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
  worker_.LogFlow(flow, end);
  End();
}

void TunnelSession::Close(Reason reason, const std::string& detail) {
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

}  // namespace qanat::ztunnel
