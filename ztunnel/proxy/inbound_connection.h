// SPDX-License-Identifier: Apache-2.0
// One connection towards an application of an enrolled pod: plaintext that was captured (15006), or
// one CONNECT of a tunnel (15008). Both are decided by the destination's policies, reach the
// application with the client's address as source, and are checked again whenever the mesh changes.
#pragma once

#include <string>

#include "common/hbone/server_session.h"
#include "common/policy/policy.h"
#include "ztunnel/proxy/user_connection.h"

namespace qanat::ztunnel {

class InboundConnection final : public UserConnection {
 public:
  // Plaintext: the client's socket and where it wanted to go.
  InboundConnection(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer,
                    net::SocketAddress target);
  // A stream: the peer of the tunnel, the tunnel's own address, and the request.
  InboundConnection(Worker& worker, PodPtr pod, net::SocketAddress peer, net::SocketAddress tunnel,
                    model::Identity peer_identity, hbone::InboundConnect request,
                    hbone::Responder responder);

  void Start();
  void OnSnapshot() override;

 private:
  bool plaintext() const { return !flow_.tunnelled; }
  void Decide(const model::WorkloadPtr& local) override;
  policy::Decision Check(const model::Workload& local) const;
  void Connect(bool spoof);
  void OnConnected(Result<Fd> fd, bool spoofed);
  void Reached(net::TransportPtr application);
  void Refuse(model::Reason reason, std::string detail) override;
  void RefuseWith(int status, model::Reason reason, std::string detail);
  void OnEnd(const FlowEnd& end) override;
  const char* PathName() const override { return plaintext() ? "plain" : "hbone"; }

  int attempts_ = 0;
  hbone::InboundConnect request_;
  hbone::Responder responder_;
};

}  // namespace qanat::ztunnel
