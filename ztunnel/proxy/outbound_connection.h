// SPDX-License-Identifier: Apache-2.0
// One connection that an application of an enrolled pod makes: identify the pod, decide the route
// (and resolve its end, where that is a name), get there (plainly, in one pass, or through a
// tunnel), relay. An endpoint that cannot be reached is followed by another one, as long as nobody
// can have got any of the client's bytes.
#pragma once

#include <memory>
#include <string>

#include "common/hbone/pool.h"
#include "common/policy/policy.h"
#include "common/route/outbound.h"
#include "common/tls/verified_peer.h"
#include "ztunnel/dns/resolver.h"
#include "ztunnel/proxy/attempts.h"
#include "ztunnel/proxy/early_bytes.h"
#include "ztunnel/proxy/original_destination.h"
#include "ztunnel/proxy/user_connection.h"

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
  size_t held() const override {
    return UserConnection::held() + (setup_ ? setup_->early.held() : 0);
  }

 private:
  // On the way to the other end.
  struct Setup {
    Setup(MemoryMeter& loop, MemoryMeter& owner) : early(loop, owner) {}

    bool own_tunnel_only = false;  // the shared one was tried
    route::Route route;
    Attempts attempts{event::Clock::now()};
    std::unique_ptr<event::Timer> try_timer;  // where another endpoint may be tried
    std::unique_ptr<dns::Resolver::Lookup> lookup;
    event::TimePoint asked{};  // the name server, or for a tunnel
    EarlyBytes early;
    std::unique_ptr<hbone::PendingConnect> pending;
    std::unique_ptr<event::Timer> shared_timer;  // while `pending` is on a shared tunnel
  };

  void Decide(const model::WorkloadPtr& source) override;
  route::Route NextRoute(std::vector<std::string> tried,
                         std::vector<std::string>* missing = nullptr) const;
  void Take(route::Route route);
  bool TryAnother(model::Reason reason, const std::string& detail);
  void TryFailed(model::Reason reason, std::string detail);
  void OnTryTimeout();
  bool TryOnePass();
  route::Identified CheckOnePass(policy::Decision& decision) const;
  void Connecting();
  void Resolve();
  void OnResolved(Result<std::vector<net::IpAddress>> addresses);
  void ConnectPlain(const net::SocketAddress& to, uint32_t mark);
  void OnConnected(Result<Fd> fd);
  // outbound_tunnel.cc
  hbone::PoolKey TunnelKey() const;
  hbone::ConnectRequest TunnelRequest() const;
  void OpenTunnel();
  void NameFarEnd(std::string_view baggage);
  bool MayShare() const;
  bool OpenShared();
  void OpenOwn();
  void OnSharedResponse(hbone::ClientSession::ConnectResult result);
  void OnSharedTimeout();
  void SharedFailed(const char* outcome, std::string_view why);
  void UseOwn();
  void LearnOfPeer(const hbone::ClientSession::ConnectResult& result);
  void OnTunnelResponse(hbone::ClientSession::ConnectResult result);
  void NoteAnswer(const hbone::ClientSession::ConnectResult& result);
  void EarlyEnded(std::string_view how);  // taken, dropped, unknown
  void Reached(net::TransportPtr upstream, size_t early_sent = 0);
  void Refuse(model::Reason reason, std::string detail) override;
  void OnRelaying() override;
  void OnEnd(const FlowEnd& end) override;
  void LogDestinationSide(const FlowEnd& end);
  void SetProven(tls::VerifiedPeerPtr proven) override { proven_by_ = std::move(proven); }
  const char* PathName() const override;
  void SaveMore(SavedConnection& saved) const override;
  void RestoreMore(const SavedConnection& saved) override;

  route::Route::Kind kind_ = route::Route::Kind::kRefuse;
  bool via_waypoint_ = false;
  bool one_pass_ = false;  // to the flow's destination, which is its workload's
  OriginalDestination original_;
  PodPtr destination_pod_;          // one pass
  std::unique_ptr<Setup> setup_;    // null once it is relayed
  tls::VerifiedPeerPtr proven_by_;  // the other end of the tunnel that it is relayed through
};

}  // namespace qanat::ztunnel
