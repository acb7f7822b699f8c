// SPDX-License-Identifier: Apache-2.0
// One client's HTTP connection inside a tunnel: makes an Exchange of each request. Owned by the
// Worker; independent of the tunnel's own life (its stream says when it is gone).
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "common/http/connection.h"
#include "waypoint/proxy/context.h"
#include "waypoint/proxy/peer.h"

namespace qanat::waypoint {

class Exchange;

class Downstream : public event::Deferred, private http::ServerEvents {
 public:
  enum class Codec { kAuto, kHttp1, kHttp2 };
  // `initial`: bytes read while the protocol was being found out.
  Downstream(WorkerContext& context, Owner& owner, net::TransportPtr transport, PeerPtr peer,
             Authority authority, ChainPtr chain, Codec codec, std::string initial);
  ~Downstream() override;

  void Drain();
  // The chain for a new request: of the newest configuration. Null: the service is gone.
  ChainPtr CurrentChain();
  const PeerPtr& peer() const { return peer_; }
  const Authority& authority() const { return authority_; }
  WorkerContext& context() { return context_; }
  // The exchange is over; it dies after this round.
  void Remove(Exchange* exchange);
  size_t exchanges() const { return exchanges_.size(); }

 private:
  void OnRequest(http::ServerStream& stream, http::RequestHead head, bool end) override;
  void OnConnectionClosed(http::ServerConnection& connection, bool clean,
                          std::string_view detail) override;

  WorkerContext& context_;
  Owner& owner_;
  PeerPtr peer_;
  Authority authority_;
  ChainPtr chain_;
  SnapshotPtr chain_snapshot_;
  http::ServerConnectionPtr connection_;
  std::unordered_map<Exchange*, std::unique_ptr<Exchange>> exchanges_;
};

}  // namespace qanat::waypoint
