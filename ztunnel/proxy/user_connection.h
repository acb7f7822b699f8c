// SPDX-License-Identifier: Apache-2.0
// What an outbound and an inbound connection share: the pod is identified, something is decided,
// the other end is reached, bytes are relayed, and all of it ends as one flow in log and metrics.
// Owned by its worker, on the worker's thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "common/base/fd.h"
#include "common/net/socket.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/proxy/relay.h"
#include "ztunnel/route/identify.h"

namespace qanat::ztunnel {

class UserConnection : public Connection {
 public:
  ~UserConnection() override;

  bool Waiting() const override { return state_ == State::kIdentifying; }
  void Close(model::Reason reason, const std::string& detail) override;
  std::optional<ConnectionInfo> Describe() const override;

 protected:
  enum class State : uint8_t { kIdentifying, kCertificate, kConnecting, kRelaying, kOver };

  // `fd` is the captured client's socket; none for a stream of a tunnel.
  UserConnection(Worker& worker, PodPtr pod, Fd fd, Reporter reporter, net::SocketAddress peer);

  // Calls Decide() once it is known which workload the pod is, Refuse() if that takes too long.
  void TryIdentify();
  void StartRelay(net::TransportPtr client, net::TransportPtr other);
  // What the client sees of a refusal: its connect() has succeeded long ago, and a reset tells it
  // that this was no orderly end.
  void ResetClient();
  // Reports the flow and releases the connection; the first call counts.
  void End(model::Reason reason, std::string error, bool opened);

  virtual void Decide(const model::WorkloadPtr& workload) = 0;
  virtual void Refuse(model::Reason reason, std::string detail) = 0;
  virtual void OnEnd(const FlowEnd& end) = 0;  // lets go of what is its own
  virtual const char* PathName() const = 0;    // for ConnectionInfo

  State state_ = State::kIdentifying;
  Fd fd_;
  Flow flow_;
  std::unique_ptr<net::Connector> connector_;
  std::unique_ptr<Relay> relay_;

 private:
  const event::TimePoint started_ = event::Clock::now();
  Identified last_failure_;
  std::unique_ptr<event::Timer> timer_;  // while identifying
};

}  // namespace qanat::ztunnel
