// SPDX-License-Identifier: Apache-2.0
// One data-plane thread: its event loop, the listeners of every pod (its share by SO_REUSEPORT),
// the connections they accept, one HBONE pool, and the snapshots it decides by. Nothing is shared
// with other workers but immutable values; other threads reach it by Post only.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/event/event_loop.h"
#include "common/hbone/pool.h"
#include "common/identity/certificate.h"
#include "common/policy/policy.h"
#include "common/state/snapshot.h"
#include "ztunnel/config.h"
#include "ztunnel/pod.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/proxy/relay.h"
#include "ztunnel/route/identify.h"
#include "ztunnel/telemetry/metrics.h"

namespace qanat::ztunnel {

// What all workers and the main thread share; set up before the first worker starts, constant from
// then on.
struct Environment {
  Config config;
  Mesh mesh;
  Metrics* metrics = nullptr;
  // Runs the task on the main thread as long as the program is there to run it for; any thread.
  std::function<void(std::function<void()>)> post_main;
  // Asks the main thread for a certificate; any thread. The answer comes by Worker::SetCertificate
  // or Worker::CertificateFailed.
  std::function<void(const model::Identity&)> want_certificate;
  // A pod was seen with addresses that differ from what the control plane says; any thread.
  std::function<void(const std::string& uid)> reread_addresses;
};

struct PodListeners {
  Fd outbound, inbound_plain, inbound_hbone;  // 15001, 15006, 15008
};

class Worker {
 public:
  Worker(unsigned index, const Environment& environment);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  event::EventLoop& loop() { return thread_.loop(); }
  // Main thread: ends everything on the worker's thread and joins it.
  void Stop();

  // ---- everything below: on the worker's thread

  // From the main thread, by Post.
  void AddPod(PodPtr pod, PodListeners listeners);
  void UpdatePod(PodPtr pod);
  void RemovePod(const std::string& uid);
  void SetSnapshot(state::SnapshotPtr snapshot);
  void SetCertificate(const model::Identity& identity, identity::CertificatePtr certificate);
  void CertificateFailed(const model::Identity& identity, const Error& error);
  void StartDrain();  // closes the listeners, drains tunnels
  void CloseAll(model::Reason reason);
  size_t user_connections() const;
  std::vector<ConnectionInfo> Describe() const;
  hbone::PoolStats pool_stats() const;

  // For connections.
  const Environment& environment() const { return environment_; }
  const state::MeshSnapshot& snapshot() const { return *snapshot_; }
  RelayShared& relay_shared() { return relay_shared_; }
  SeriesCache& series() { return series_; }
  hbone::Pool& pool() { return *pool_; }
  uint64_t Random() { return random_(); }
  PodPtr PodByName(std::string_view ns, std::string_view name) const;
  Identified Identify(const Pod& pod) const;
  identity::CertificatePtr FindCertificate(const model::Identity& identity) const;
  // Calls connection->OnCertificate later, once.
  void AwaitCertificate(const model::Identity& identity, Connection* connection);
  policy::Decision CheckPolicy(const model::Workload& destination,
                               const policy::Request& request) const;
  Connection& Adopt(std::unique_ptr<Connection> connection);
  void Release(Connection* connection);  // destroyed after this round
  void LogFlow(const Flow& flow, const FlowEnd& end);
  void CountRefused(Reporter reporter, model::Reason reason);
  void CountTunnelError(model::Reason reason);
  metrics::Gauge& open_sockets(Reporter reporter) {
    return reporter == Reporter::kSource ? *source_sockets_ : *destination_sockets_;
  }

 private:
  struct PodEntry;

  // True when the pod's identity or its policies are other ones than when last asked.
  bool RefreshVerdict(PodEntry& entry) const;
  Result<hbone::DialPlan> PlanDial(const hbone::PoolKey& key) const;
  void OnOutbound(const PodPtr& pod, Fd fd, net::SocketAddress peer);
  void OnInboundPlain(const PodPtr& pod, Fd fd, net::SocketAddress peer);
  void OnInboundHbone(const PodPtr& pod, Fd fd, net::SocketAddress peer);
  void AnswerWaiting(const model::Identity& identity,
                     const Result<identity::CertificatePtr>& answer);
  template <typename Visit>
  void ForEachConnection(Visit visit);

  const Environment& environment_;
  SeriesCache series_;
  RelayShared relay_shared_;
  std::mt19937_64 random_;
  std::shared_ptr<metrics::Gauge> source_sockets_, destination_sockets_;
  state::SnapshotPtr snapshot_ = std::make_shared<const state::MeshSnapshot>();
  std::unordered_map<std::string, std::unique_ptr<PodEntry>> pods_;     // by uid
  std::map<std::pair<std::string, std::string>, PodPtr> pods_by_name_;  // (ns, name)
  std::unordered_map<model::Identity, identity::CertificatePtr> certificates_;
  std::multimap<model::Identity, Connection*> waiting_for_certificate_;
  std::unordered_map<Connection*, std::unique_ptr<Connection>> connections_;
  std::unique_ptr<hbone::Pool> pool_;
  bool draining_ = false;
  bool stopped_ = false;      // main thread
  event::LoopThread thread_;  // last: joined before the rest goes
};

}  // namespace qanat::ztunnel
