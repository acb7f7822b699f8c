// SPDX-License-Identifier: Apache-2.0
// One connection that an application of an enrolled pod makes: identify the pod, decide the route,
// get there (plainly, in one pass, or through a tunnel), relay.
#pragma once

#include <memory>
#include <optional>

#include "common/hbone/pool.h"
#include "common/net/socket.h"
#include "common/policy/policy.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/proxy/original_destination.h"
#include "ztunnel/proxy/relay.h"
#include "ztunnel/route/identify.h"
#include "ztunnel/route/outbound.h"

namespace qanat::ztunnel {

class OutboundConnection final : public Connection {
 public:
  OutboundConnection(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer,
                     OriginalDestination original);
  ~OutboundConnection() override;

  void Start();
  bool Waiting() const override { return state_ == State::kIdentifying; }
  void OnSnapshot() override;
  void OnCertificate(const Result<identity::CertificatePtr>& certificate) override;
  void Close(model::Reason reason, const std::string& detail) override;
  bool Touches(const std::string& pod_uid) const override;
  std::optional<ConnectionInfo> Describe() const override;

 private:
  enum class State : uint8_t { kIdentifying, kCertificate, kConnecting, kRelaying, kOver };

  void TryIdentify();
  void Decide(const model::WorkloadPtr& source);
  bool TryOnePass();
  Identified CheckOnePass(policy::Decision& decision) const;
  void ConnectPlain(const net::SocketAddress& to, uint32_t mark);
  void OnConnected(Result<Fd> fd);
  void OpenTunnel();
  void OnTunnelResponse(hbone::ClientSession::ConnectResult result);
  void StartRelay(net::TransportPtr upstream);
  void Refuse(model::Reason reason, std::string detail);
  void End(model::Reason reason, std::string error, bool opened);
  void LogDestinationSide(const FlowEnd& end);
  const char* PathName() const;

  State state_ = State::kIdentifying;
  bool one_pass_ = false;
  Fd fd_;
  OriginalDestination original_;
  event::TimePoint started_;
  Flow flow_;
  Route route_;
  PodPtr destination_pod_;  // one pass
  Identified last_failure_;
  std::unique_ptr<event::Timer> timer_;  // while identifying
  std::unique_ptr<net::Connector> connector_;
  std::unique_ptr<hbone::PendingConnect> pending_;
  std::unique_ptr<Relay> relay_;
};

}  // namespace qanat::ztunnel
