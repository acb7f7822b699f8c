// SPDX-License-Identifier: Apache-2.0
// One tunnel from a client's proxy: TLS handshake, HBONE session, and for each CONNECT the choice
// of a chain. Owned by the Worker.
#pragma once

#include <memory>
#include <string>

#include "common/hbone/server_session.h"
#include "common/tls/tls_transport.h"
#include "waypoint/proxy/context.h"
#include "waypoint/proxy/peer.h"

namespace qanat::waypoint {

class Worker;

class Tunnel final : public event::Deferred {
 public:
  Tunnel(Worker& worker, net::TransportPtr socket, tls::TlsContextPtr context);
  ~Tunnel() override;
  void Drain();
  void Close(std::string_view why);
  const std::string& identity() const { return identity_; }

 private:
  void HandshakeDone(Result<tls::TlsConnection> connection);
  void OnConnect(hbone::InboundConnect request, hbone::Responder responder);

  Worker& worker_;
  metrics::Gauge& count_;  // outlives the worker, as a tunnel on its way out may
  net::SocketAddress peer_, local_;
  std::string identity_;
  std::unique_ptr<tls::TlsHandshake> handshake_;
  std::unique_ptr<hbone::ServerSession> session_;
  bool draining_ = false;
};

}  // namespace qanat::waypoint
