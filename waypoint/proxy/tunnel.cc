// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/tunnel.h"

#include "common/base/log.h"
#include "waypoint/proxy/sniffer.h"
#include "waypoint/proxy/worker.h"

namespace qanat::waypoint {

Tunnel::Tunnel(Worker& worker, net::TransportPtr socket, tls::TlsContextPtr context)
    : worker_(worker),
      count_(worker.context().telemetry.families().tunnels.Get()),
      peer_(socket->peer_address()),
      local_(socket->local_address()) {
  count_.Add(1);
  tls::HandshakeOptions options;
  options.role = tls::Role::kServer;
  handshake_ = std::make_unique<tls::TlsHandshake>(
      std::move(socket), std::move(context), options,
      [this](Result<tls::TlsConnection> c) { HandshakeDone(std::move(c)); });
}

Tunnel::~Tunnel() { count_.Sub(1); }

void Tunnel::Drain() {
  draining_ = true;
  if (session_) return session_->Drain();
  // A handshake on the way is let finish: it gets its GOAWAY then.
}

void Tunnel::Close(std::string_view why) {
  if (session_) session_->Close(why);
}

void Tunnel::HandshakeDone(Result<tls::TlsConnection> connection) {
  if (!connection) {
    worker_.context().telemetry.BadInput("tls_handshake");
    LOG_INFO("tunnel", "{}: {}", peer_.ToString(), connection.error().message);
    return worker_.Release(this);
  }
  identity_ = connection->peer.identity;
  hbone::SessionOptions options;
  options.max_concurrent_streams = 100;  // stock waypoint's connect_terminate
  hbone::ServerSession::Events events;
  events.on_connect = [this](hbone::InboundConnect request, hbone::Responder responder) {
    OnConnect(std::move(request), std::move(responder));
  };
  events.on_closed = [this](const hbone::CloseReason& reason) {
    if (!reason.message.empty()) {
      if (!reason.by_peer && reason.code != hbone::H2Error::kNoError) {
        worker_.context().telemetry.BadInput("hbone");
      }
      LOG_DEBUG("tunnel", "{} ended: {}", peer_.ToString(), reason.message);
    }
    worker_.Release(this);
  };
  session_ = std::make_unique<hbone::ServerSession>(std::move(connection->transport), options,
                                                    std::move(events));
  if (draining_) session_->Drain();
}

void Tunnel::OnConnect(hbone::InboundConnect request, hbone::Responder responder) {
  WorkerContext& context = worker_.context();
  Authority authority = ParseAuthority(request.authority);
  if (!authority.valid) {
    context.telemetry.BadInput("authority");
    return responder.Reject(400);
  }
  ChainPtr chain = context.snapshot->FindChain(authority.text);
  if (!chain) {
    LOG_INFO("tunnel", "{} ({}) asked for {}, which this waypoint does not serve", peer_.ToString(),
             identity_, authority.text);
    context.telemetry.families()
        .refusals.With({std::string(model::ToString(model::Reason::kNoSuchPort))})
        ->Add();
    return responder.Reject(503);
  }
  auto peer = std::make_shared<const Peer>(MakePeer(identity_, peer_, local_, request.baggage()));
  worker_.Serve(std::move(peer), std::move(authority), std::move(chain), std::move(responder));
}

}  // namespace qanat::waypoint
