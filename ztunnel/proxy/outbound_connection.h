// SPDX-License-Identifier: Apache-2.0
// One connection that an application of an enrolled pod makes: identify the pod, decide the route
// (and resolve its end, where that is a name), get there (plainly, in one pass, or through a
// tunnel), relay. An endpoint that cannot be reached is followed by another one, as long as nothing
// of the client's bytes has been sent.
#pragma once

#include <memory>
#include <string>

#include "common/hbone/pool.h"
#include "common/policy/policy.h"
#include "common/tls/verified_peer.h"
#include "ztunnel/dns/resolver.h"
#include "ztunnel/proxy/attempts.h"
#include "ztunnel/proxy/original_destination.h"
#include "ztunnel/proxy/user_connection.h"
#include "ztunnel/route/outbound.h"

namespace qanat::ztunnel {

// What became of a tunnel, or of a stream on it.
model::Reason TunnelReasonOf(const Error& error);

class OutboundConnection final : public UserConnection {
 public:
  OutboundConnection(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer,
                     OriginalDestination original);

  void Start() {
    if (Admit()) TryIdentify();
  }
  void OnSnapshot() override;
  void OnRevocations() override;
  void OnCertificate(const Result<identity::CertificatePtr>& certificate) override;
  bool Touches(const std::string& pod_uid) const override;
  std::optional<ConnectionInfo> Describe() const override;

 private:
  void Decide(const model::WorkloadPtr& source) override;
  Route NextRoute(std::vector<std::string> tried,
                  std::vector<std::string>* missing = nullptr) const;
  void Take(Route route);
  bool TryAnother(model::Reason reason, const std::string& detail);
  void TryFailed(model::Reason reason, std::string detail);
  void OnTryTimeout();
  bool TryOnePass();
  Identified CheckOnePass(policy::Decision& decision) const;
  void Connecting();
  void Resolve();
  void OnResolved(Result<std::vector<net::IpAddress>> addresses);
  void ConnectPlain(const net::SocketAddress& to, uint32_t mark);
  void OnConnected(Result<Fd> fd);
  // outbound_tunnel.cc
  hbone::PoolKey TunnelKey() const;
  hbone::ConnectRequest TunnelRequest() const;
  void OpenTunnel();
  bool MayShare() const;
  bool OpenShared();
  void OpenOwn();
  void OnSharedResponse(hbone::ClientSession::ConnectResult result);
  void OnSharedTimeout();
  void SharedFailed(const char* outcome, std::string_view why);
  void UseOwn();
  void LearnOfPeer(const hbone::ClientSession::ConnectResult& result);
  void OnTunnelResponse(hbone::ClientSession::ConnectResult result);
  void Reached(net::TransportPtr upstream);
  void Refuse(model::Reason reason, std::string detail) override;
  void OnEnd(const FlowEnd& end) override;
  void LogDestinationSide(const FlowEnd& end);
  void SetProven(tls::VerifiedPeerPtr proven) override { proven_by_ = std::move(proven); }
  const char* PathName() const override;
  void SaveMore(SavedConnection& saved) const override;
  void RestoreMore(const SavedConnection& saved) override;

  bool one_pass_ = false;
  bool own_tunnel_only_ = false;  // the shared one was tried
  OriginalDestination original_;
  Route route_;
  Attempts attempts_{event::Clock::now()};
  std::unique_ptr<event::Timer> try_timer_;  // where another endpoint may be tried
  PodPtr destination_pod_;                   // one pass
  std::unique_ptr<dns::Resolver::Lookup> lookup_;
  event::TimePoint asked_{};  // the name server, or for a tunnel
  std::unique_ptr<hbone::PendingConnect> pending_;
  std::unique_ptr<event::Timer> shared_timer_;  // while `pending_` is on a shared tunnel
  tls::VerifiedPeerPtr proven_by_;  // the other end of the tunnel that it is relayed through
};

}  // namespace qanat::ztunnel
