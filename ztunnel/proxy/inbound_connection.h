// SPDX-License-Identifier: Apache-2.0
// One connection towards an application of an enrolled pod: plaintext that was captured (15006), or
// one CONNECT of a tunnel (15008). Both are decided by the destination's policies, reach the
// application with the client's address as source, and are checked again whenever the mesh changes.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "common/hbone/server_session.h"
#include "common/net/socket.h"
#include "common/policy/policy.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/proxy/relay.h"
#include "ztunnel/route/identify.h"

namespace qanat::ztunnel {

class InboundConnection final : public Connection {
 public:
  // Plaintext: the client's socket and where it wanted to go.
  InboundConnection(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer,
                    net::SocketAddress target);
  // A stream: the peer of the tunnel, the tunnel's own address, and the request.
  InboundConnection(Worker& worker, PodPtr pod, net::SocketAddress peer, net::SocketAddress tunnel,
                    model::Identity peer_identity, hbone::InboundConnect request,
                    hbone::Responder responder);
  ~InboundConnection() override;

  void Start();
  bool Waiting() const override { return state_ == State::kIdentifying; }
  void OnSnapshot() override;
  void Close(model::Reason reason, const std::string& detail) override;
  std::optional<ConnectionInfo> Describe() const override;

 private:
  enum class State : uint8_t { kIdentifying, kConnecting, kRelaying, kOver };

  bool plaintext() const { return !flow_.tunnelled; }
  void TryIdentify();
  void Decide(const model::WorkloadPtr& local);
  policy::Decision Check(const model::Workload& local) const;
  void Connect(bool spoof);
  void OnConnected(Result<Fd> fd, bool spoofed);
  void StartRelay(net::TransportPtr application);
  void Refuse(model::Reason reason, int status, std::string detail);
  void End(model::Reason reason, std::string error, bool opened);

  State state_ = State::kIdentifying;
  int attempts_ = 0;
  Fd fd_;  // plaintext
  hbone::InboundConnect request_;
  hbone::Responder responder_;
  event::TimePoint started_;
  Flow flow_;
  Identified last_failure_;
  std::unique_ptr<event::Timer> timer_;
  std::unique_ptr<net::Connector> connector_;
  std::unique_ptr<Relay> relay_;
};

}  // namespace qanat::ztunnel
