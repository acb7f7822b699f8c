// SPDX-License-Identifier: Apache-2.0
// One TCP connection through the waypoint: policy, cluster, endpoint, then bytes. Owned by the
// Worker.
#pragma once

#include <memory>
#include <string>

#include "common/hbone/server_session.h"
#include "waypoint/proxy/context.h"
#include "waypoint/proxy/record.h"
#include "waypoint/proxy/relay.h"

namespace qanat::waypoint {

class TcpConnection final : public event::Deferred {
 public:
  // Either an unanswered CONNECT (accepted when the endpoint has been reached), or a stream that
  // was accepted to look at its first bytes.
  TcpConnection(WorkerContext& context, Owner& owner, PeerPtr peer, Authority authority,
                ChainPtr chain, hbone::Responder responder);
  TcpConnection(WorkerContext& context, Owner& owner, PeerPtr peer, Authority authority,
                ChainPtr chain, net::TransportPtr client, std::string initial);
  ~TcpConnection() override;
  // Call once, right after it has an owner.
  void Start();
  // The configuration has changed: what policy no longer allows ends now.
  void Recheck();

 private:
  bool Allowed();
  void Dialled(Result<net::TransportPtr> upstream);
  void Refuse(int status, Flag flag, model::Reason reason, std::string detail);
  void Finish();

  WorkerContext& context_;
  Owner& owner_;
  Authority authority_;
  ChainPtr chain_;
  Record record_;
  hbone::Responder responder_;
  net::TransportPtr client_;
  std::string initial_;
  std::shared_ptr<ClusterState> cluster_;
  ClusterState::Pick pick_;
  std::unique_ptr<Dialer::Attempt> dial_;
  std::unique_ptr<Relay> relay_;
  TelemetrySink::TcpSeries series_;
  bool finished_ = false;
};

}  // namespace qanat::waypoint
