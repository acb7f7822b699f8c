// SPDX-License-Identifier: Apache-2.0
// The base of everything that a worker keeps alive: outgoing and incoming connections and inbound
// tunnels. Owned by its worker, on the worker's thread; ends by Worker::Release.
#pragma once

#include <optional>
#include <string>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/identity/certificate.h"
#include "common/model/reason.h"
#include "ztunnel/pod.h"
#include "ztunnel/telemetry/flow.h"

namespace qanat::ztunnel {

class TunnelSession;
class UserConnection;
class Worker;

// A live connection for /debug/connections and config_dump.
struct ConnectionInfo {
  std::string pod_uid;
  Flow flow;
  std::string path;  // "plain", "passthrough", "one-pass", "hbone", "waypoint"
  uint64_t bytes_up = 0, bytes_down = 0;
  net::SocketAddress dialled;  // by the client, before anything was decided
};

class Connection : public event::Deferred {
 public:
  Connection(Worker& worker, PodPtr pod) : worker_(worker), pod_(std::move(pod)) {}
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // The mesh changed. Waiting ones look again, whatever changed ...
  virtual bool Waiting() const { return false; }
  // ... live ones check that they are still allowed when their pods are concerned.
  virtual void OnSnapshot() {}
  // The pod is described anew (its addresses were read again).
  void UpdatePod(const PodPtr& pod) {
    if (pod->uid != pod_->uid) return;
    pod_ = pod;
    OnSnapshot();
  }
  // The answer to Worker::AwaitCertificate.
  virtual void OnCertificate(const Result<identity::CertificatePtr>&) {}
  // Other revocation lists count: who rests on a certificate looks whether it is on them.
  virtual void OnRevocations() {}
  // A root is no longer believed: `certificate` (of ours) says which still are.
  virtual void OnLostRoot(const identity::WorkloadCertificate&) {}
  // Ends now, so that both peers notice.
  virtual void Close(model::Reason reason, const std::string& detail) = 0;
  // Take nothing new; what goes on may end in its own time.
  virtual void Drain() {}
  virtual bool Touches(const std::string& pod_uid) const { return pod_->uid == pod_uid; }
  virtual std::optional<ConnectionInfo> Describe() const { return std::nullopt; }
  // Now and then: whether it has been of no use for too long.
  virtual void LookAtIdleness(event::TimePoint) {}
  // Memory of bytes that wait in it; it can be had back by Close().
  virtual size_t held() const { return 0; }
  const Pod& pod() const { return *pod_; }
  // Counts for a graceful end: user connections do, idle tunnels do not.
  virtual bool IsUserConnection() const { return true; }
  // For a hand-over to another process.
  virtual UserConnection* user() { return nullptr; }
  virtual TunnelSession* tunnel() { return nullptr; }

 protected:
  Worker& worker_;
  PodPtr pod_;
};

}  // namespace qanat::ztunnel
