// SPDX-License-Identifier: Apache-2.0
// One connection that an application of an enrolled pod makes: identify the pod, decide the route,
// get there (plainly, in one pass, or through a tunnel), relay.
#pragma once

#include <memory>
#include <string>

#include "common/hbone/pool.h"
#include "common/policy/policy.h"
#include "ztunnel/proxy/original_destination.h"
#include "ztunnel/proxy/user_connection.h"
#include "ztunnel/route/outbound.h"

namespace qanat::ztunnel {

class OutboundConnection final : public UserConnection {
 public:
  OutboundConnection(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer,
                     OriginalDestination original);

  void Start() { TryIdentify(); }
  void OnSnapshot() override;
  void OnCertificate(const Result<identity::CertificatePtr>& certificate) override;
  bool Touches(const std::string& pod_uid) const override;

 private:
  void Decide(const model::WorkloadPtr& source) override;
  bool TryOnePass();
  Identified CheckOnePass(policy::Decision& decision) const;
  void ConnectPlain(const net::SocketAddress& to, uint32_t mark);
  void OnConnected(Result<Fd> fd);
  void OpenTunnel();
  void OnTunnelResponse(hbone::ClientSession::ConnectResult result);
  void Reached(net::TransportPtr upstream);
  void Refuse(model::Reason reason, std::string detail) override;
  void OnEnd(const FlowEnd& end) override;
  void LogDestinationSide(const FlowEnd& end);
  const char* PathName() const override;

  bool one_pass_ = false;
  OriginalDestination original_;
  Route route_;
  PodPtr destination_pod_;  // one pass
  std::unique_ptr<hbone::PendingConnect> pending_;
};

}  // namespace qanat::ztunnel
