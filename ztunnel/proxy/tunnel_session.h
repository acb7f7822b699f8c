// SPDX-License-Identifier: Apache-2.0
// One inbound tunnel (a connection to 15008): TLS with the pod's certificate, then HTTP/2; each
// CONNECT becomes an InboundConnection of its own.
#pragma once

#include <memory>

#include "common/hbone/server_session.h"
#include "common/tls/tls_transport.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/route/identify.h"

namespace qanat::ztunnel {

class TunnelSession final : public Connection {
 public:
  TunnelSession(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer,
                net::SocketAddress local);
  ~TunnelSession() override;

  void Start();
  bool Waiting() const override { return state_ == State::kIdentifying; }
  void OnSnapshot() override;
  void OnCertificate(const Result<identity::CertificatePtr>& certificate) override;
  void Close(model::Reason reason, const std::string& detail) override;
  void Drain() override;
  bool IsUserConnection() const override { return false; }

 private:
  enum class State : uint8_t { kIdentifying, kCertificate, kHandshake, kOpen, kOver };

  void TryIdentify();
  void Handshake(const identity::CertificatePtr& certificate);
  void OnHandshake(Result<tls::TlsConnection> result);
  void OnConnect(hbone::InboundConnect request, hbone::Responder responder);
  void Fail(model::Reason reason, const std::string& detail);
  void End();

  State state_ = State::kIdentifying;
  Fd fd_;
  const net::SocketAddress peer_;
  const net::SocketAddress local_;
  model::Identity own_identity_;
  model::Identity peer_identity_;
  Identified last_failure_;
  std::unique_ptr<event::Timer> timer_;
  std::unique_ptr<tls::TlsHandshake> handshake_;
  std::unique_ptr<hbone::ServerSession> session_;
};

}  // namespace qanat::ztunnel
