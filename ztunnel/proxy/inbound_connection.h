// SPDX-License-Identifier: Apache-2.0
// One connection towards an application of an enrolled pod: plaintext that was captured (15006), or
// one CONNECT of a tunnel (15008). Both are decided by the destination's policies, reach the
// application with the client's address as source, and are checked again whenever the mesh changes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/hbone/server_session.h"
#include "common/policy/policy.h"
#include "common/tls/verified_peer.h"
#include "ztunnel/proxy/user_connection.h"
#include "ztunnel/route/inbound.h"

namespace qanat::ztunnel {

// Who the other end of a tunnel is, and by which certificates.
struct Proven {
  SharedIdentity identity;
  tls::VerifiedPeerPtr by;
};

class InboundConnection final : public UserConnection {
 public:
  // Plaintext: the client's socket and where it wanted to go.
  InboundConnection(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer,
                    net::SocketAddress target);
  // A stream: the peer of the tunnel, the tunnel's own address, and the request.
  InboundConnection(Worker& worker, PodPtr pod, net::SocketAddress peer, net::SocketAddress tunnel,
                    Proven proven, hbone::InboundConnect request, hbone::Responder responder);

  void Start();
  void OnSnapshot() override;
  void OnRevocations() override;

 private:
  // On the way to the application.
  struct Setup {
    int attempts = 0;
    InboundTarget target;
    hbone::InboundConnect request;
    std::optional<std::string> source_said;  // of a stream on a shared tunnel, until it is checked
    hbone::Responder responder;
  };

  bool plaintext() const { return !flow_.tunnelled; }
  void Decide(const model::WorkloadPtr& local) override;
  std::vector<std::string> Missing(const model::Workload& local) const;
  bool TakeSource(const model::Workload& local);
  bool Resolve(const model::Workload& local);
  void NameSource(const model::Workload& local);
  policy::Decision Check(const model::Workload& local) const;
  bool SendProxyHeader(net::Transport& application) const;
  void Connect(bool spoof);
  void OnConnected(Result<Fd> fd, bool spoofed);
  void Reached(net::TransportPtr application);
  void Refuse(model::Reason reason, std::string detail) override;
  void RefuseWith(int status, model::Reason reason, std::string detail);
  void OnRelaying() override { setup_.reset(); }
  void OnEnd(const FlowEnd& end) override;
  void SaveMore(SavedConnection&) const override {}
  void RestoreMore(const SavedConnection&) override {}
  void SetProven(tls::VerifiedPeerPtr proven) override { proven_by_ = std::move(proven); }
  const char* PathName() const override { return plaintext() ? "plain" : "hbone"; }

  tls::VerifiedPeerPtr proven_by_;
  std::unique_ptr<Setup> setup_ = std::make_unique<Setup>();  // null once it is relayed
};

}  // namespace qanat::ztunnel
