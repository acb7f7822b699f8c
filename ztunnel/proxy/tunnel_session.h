// SPDX-License-Identifier: Apache-2.0
// One inbound tunnel (a connection to 15008): TLS with the pod's certificate, then HTTP/2; each
// CONNECT becomes an InboundConnection of its own.
#pragma once

#include <memory>

#include "common/hbone/server_session.h"
#include "common/route/identify.h"
#include "common/tls/tls_transport.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/takeover/tunnel_state.h"

namespace qanat::ztunnel {

class TunnelSession final : public Connection {
 public:
  TunnelSession(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer,
                net::SocketAddress local);
  // One that another process gives; Resume() is next.
  TunnelSession(Worker& worker, PodPtr pod, const SavedTunnel::Inbound& saved);
  ~TunnelSession() override;

  void Start();
  bool Waiting() const override { return state_ == State::kIdentifying; }
  void OnSnapshot() override;
  void OnCertificate(const Result<identity::CertificatePtr>& certificate) override;
  void OnRevocations() override;
  void OnLostRoot(const identity::WorkloadCertificate& certificate) override;
  void Close(model::Reason reason, const std::string& detail) override;
  void Drain() override;
  void LookAtIdleness(event::TimePoint now) override;
  size_t held() const override { return session_ ? session_->held() : 0; }
  bool IsUserConnection() const override { return false; }
  TunnelSession* tunnel() override { return this; }

  // ---- hand-over, with the streams' connections (tunnel_mover.h)

  const hbone::ServerSession* session() const { return session_.get(); }  // null: not open
  SavedTunnel Freeze(net::TransportPtr& transport);  // needs session()->Freezable()
  void Resume(net::TransportPtr transport, hbone::SavedSession saved, tls::VerifiedPeerPtr proven,
              std::vector<net::TransportPtr>& streams);
  // What happened while it stood still, and what is known here, may end it.
  void CheckAgain();
  void Forget();

 private:
  enum class State : uint8_t { kIdentifying, kCertificate, kHandshake, kOpen, kFrozen, kOver };

  void TryIdentify();
  void Handshake(const identity::CertificatePtr& certificate);
  void OnHandshake(Result<tls::TlsConnection> result);
  hbone::SessionOptions Options() const;
  hbone::ServerSession::Events Events();
  void OnConnect(hbone::InboundConnect request, hbone::Responder responder);
  void Fail(model::Reason reason, const std::string& detail);
  void End();

  State state_ = State::kIdentifying;
  Fd fd_;
  const net::SocketAddress peer_;
  const net::SocketAddress local_;
  model::Identity own_identity_;
  SharedIdentity peer_identity_;  // of all of its streams
  tls::VerifiedPeerPtr proven_;
  event::TimePoint unused_since_{};  // where it had no stream when last looked at
  std::optional<std::pair<model::Reason, std::string>> close_later_;  // asked for while frozen
  bool drain_later_ = false;
  route::Identified last_failure_;
  std::unique_ptr<event::Timer> timer_;
  std::unique_ptr<tls::TlsHandshake> handshake_;
  std::unique_ptr<hbone::ServerSession> session_;
};

}  // namespace qanat::ztunnel
