// SPDX-License-Identifier: Apache-2.0
// One data-plane thread: its event loop, the listeners of every pod (its share by SO_REUSEPORT),
// the connections they accept, one HBONE pool, and the snapshots it decides by. Nothing is shared
// with other workers but immutable values; other threads reach it by Post only.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/base/line_writer.h"
#include "common/base/program.h"
#include "common/event/event_loop.h"
#include "common/hbone/pool.h"
#include "common/identity/certificate.h"
#include "common/lb/outliers.h"
#include "common/lb/pick_cache.h"
#include "common/policy/policy.h"
#include "common/route/identify.h"
#include "common/route/outbound.h"
#include "common/route/required_waypoint.h"
#include "common/state/snapshot.h"
#include "common/tls/handshake_shared.h"
#include "ztunnel/config.h"
#include "ztunnel/dns/resolver.h"
#include "ztunnel/dns/server.h"
#include "ztunnel/listeners.h"
#include "ztunnel/memory/budget.h"
#include "ztunnel/pod.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/proxy/relay.h"
#include "ztunnel/proxy/sharing.h"
#include "ztunnel/proxy/spare_sockets.h"
#include "ztunnel/takeover/mover.h"
#include "ztunnel/telemetry/pool_metrics.h"
#include "ztunnel/telemetry/series_cache.h"
#include "ztunnel/telemetry/worker_metrics.h"

namespace qanat::ztunnel {

// What all workers and the main thread share; set up before the first worker starts, constant from
// then on.
struct Environment {
  Config config;
  route::Mesh mesh;
  Metrics* metrics = nullptr;
  PoolMetrics* pools = nullptr;
  log::LineWriter* access_log = nullptr;
  DescriptorBounds descriptors;
  // Runs the task on the main thread as long as the program is there to run it for; any thread.
  std::function<void(std::function<void()>)> post_main;
  // Asks the main thread for a certificate; any thread. The answer comes by Worker::SetCertificate
  // or Worker::CertificateFailed.
  std::function<void(const model::Identity&)> want_certificate;
  // Somebody who proved to be of the mesh's kind is of a root that we do not know, or the other way
  // round: the CA may have a new one. Any thread.
  std::function<void(const model::Identity&)> renew_certificate;
  // Asks the main thread for what is not known of the mesh; any thread. The answer comes with a
  // snapshot. None: everything there is, is known.
  std::function<void(std::vector<std::string> names)> want_names;
  // A pod was seen with addresses that differ from what the control plane says; any thread.
  std::function<void(const std::string& uid)> reread_addresses;
};

class Worker {
 public:
  Worker(unsigned index, const Environment& environment);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  event::EventLoop& loop() { return thread_.loop(); }
  // Users' connections and tunnels that came in; any thread.
  size_t connections() const { return alive_.load(std::memory_order_relaxed); }
  // Main thread: ends everything on the worker's thread and joins it.
  void Stop();

  // ---- everything below: on the worker's thread

  // From the main thread, by Post.
  void AddPod(PodPtr pod, Listeners listeners);
  void UpdatePod(PodPtr pod);
  void RemovePod(const std::string& uid);
  // For a take-over: the pod's listeners, duplicated; and whether this worker takes from them.
  Listeners ShareListeners(const std::string& uid) const;
  void PauseListeners(const std::string& uid, bool paused);
  ConnectionMover& mover() { return mover_; }
  template <typename Visit>
  void ForEachConnection(Visit visit);
  void SetSnapshot(state::SnapshotPtr snapshot);
  void SetCertificate(const model::Identity& identity, identity::CertificatePtr certificate);
  void CertificateFailed(const model::Identity& identity, const Error& error);
  // Other revocation lists count from now on; whoever is on them is cut off.
  void SetRevocations(const tls::RevocationListPtr& lists);
  void ForgetSeries();
  // Closes the listeners, drains tunnels. `kept`: somebody else has the listeners, and with them
  // those who wait in their queues.
  void StartDrain(bool kept);
  void CloseAll(model::Reason reason);
  size_t user_connections() const;
  // Who holds memory, `most` of the largest (of one pod, or of all); and the end of such, as far as
  // they still hold it: how many, and how much it was.
  std::vector<MemoryHolder> Holders(size_t index, const Pod* of, size_t most);
  std::pair<size_t, uint64_t> EndHolders(const std::vector<MemoryHolder>& holders, bool of_pod);
  std::vector<ConnectionInfo> Describe() const;
  hbone::PoolStats pool_stats() const;

  // For connections.
  const Environment& environment() const { return environment_; }
  const state::MeshSnapshot& snapshot() const { return *snapshot_; }
  RelayShared& relay_shared() { return relay_shared_; }
  SpareSockets& spare_sockets() { return *spare_sockets_; }
  SeriesCache& series() { return series_; }
  WorkerMetrics& metrics() { return metrics_; }
  hbone::Pool& pool() { return *pool_; }
  hbone::Pool& inner_pool() { return *inner_pool_; }  // through the gateways of other networks
  Sharing& sharing() { return sharing_; }             // which tunnels pods may share
  // Makes a tunnel that the identity's pods share.
  void WarmShared(const hbone::PoolKey& shared);
  size_t PodsOf(const model::Identity& identity) const;
  dns::Resolver& resolver() { return *resolver_; }
  tls::HandshakeShared& handshakes() { return *handshakes_; }
  uint64_t Random() { return random_(); }
  // How outgoing connections are decided at present: which endpoints keep failing.
  route::OutboundOptions outbound_options(const Pod& client);
  // What became of a route that was one of several; others are nobody's choice.
  void EndpointFailed(const Pod& client, const route::Route& route);
  void EndpointGood(const Pod& client, const route::Route& route);
  PodPtr PodByName(std::string_view ns, std::string_view name) const;
  PodPtr PodByUid(const std::string& uid) const;
  PodPtr PodByCookie(uint64_t netns_cookie) const;
  route::Identified Identify(const Pod& pod) const;
  // The one that connections have in common.
  SharedIdentity Shared(model::Identity identity);
  identity::CertificatePtr FindCertificate(const model::Identity& identity) const;
  // Calls connection->OnCertificate later, once.
  void AwaitCertificate(const model::Identity& identity, Connection* connection);
  policy::Decision CheckPolicy(const model::Workload& destination,
                               const policy::Request& request) const;
  // What was to come through a waypoint did; always so with QANAT_ENFORCE_WAYPOINT=false.
  route::RequiredWaypoint CheckWaypoint(const model::Workload& destination,
                                        const net::SocketAddress& target,
                                        const route::Sender& sender) const;
  Connection& Adopt(std::unique_ptr<Connection> connection);
  void Release(Connection* connection);  // destroyed after this round
  void LogFlow(const Flow& flow, const FlowEnd& end);
  void LogOpened(const Flow& flow);  // at level debug
  void CountRefused(Reporter reporter, model::Reason reason);
  void CountTunnelError(model::Reason reason);
  void CountUntracked(Reporter reporter);
  SetupTimes& setup_times(Reporter reporter) {
    return reporter == Reporter::kSource ? source_setup_ : destination_setup_;
  }
  metrics::Gauge& open_sockets(Reporter reporter) {
    return reporter == Reporter::kSource ? *source_sockets_ : *destination_sockets_;
  }

 private:
  struct PodEntry;

  // True when the pod's identity or its policies are other ones than when last asked.
  bool RefreshVerdict(PodEntry& entry) const;
  void CountPods();  // after a change of pods_ or of what they are
  // worker_tunnels.cc
  void MakePools();
  Result<hbone::DialPlan> PlanDial(const hbone::PoolKey& key) const;
  hbone::Headers GatewayHeaders(const hbone::PoolKey& key);
  void EndTunnelsOf(const Pod& pod);  // which is in pods_ no more

  void OnOutbound(const PodPtr& pod, Fd fd, net::SocketAddress peer);
  void OnInboundPlain(const PodPtr& pod, Fd fd, net::SocketAddress peer);
  void OnInboundHbone(const PodPtr& pod, Fd fd, net::SocketAddress peer);
  void OnSocks(const PodPtr& pod, Fd fd, net::SocketAddress peer);
  void AnswerWaiting(const model::Identity& identity,
                     const Result<identity::CertificatePtr>& answer);
  void CountHandshake(const tls::HandshakeOutcome& outcome);
  void OnExhausted(const Error& error);
  void SweepPicks();
  void LookAtIdleness();

  const Environment& environment_;
  log::LineWriter::Source& log_;  // the access log, and what this thread says
  WorkerMetrics metrics_;
  SeriesCache series_;
  RelayShared relay_shared_;
  std::mt19937_64 random_;
  lb::Outliers outliers_;
  std::vector<std::string> ejected_;  // as the present decision was told
  lb::PickCache picks_;
  std::shared_ptr<metrics::Gauge> source_sockets_, destination_sockets_;
  SetupTimes source_setup_, destination_setup_;
  std::unique_ptr<event::Timer> idleness_;
  event::TimePoint told_exhausted_{};  // the log
  event::TimePoint inner_since_{};     // those of then and before take no new streams
  state::SnapshotPtr snapshot_ = std::make_shared<const state::MeshSnapshot>();
  std::unordered_map<std::string, std::unique_ptr<PodEntry>> pods_;     // by uid
  std::map<std::pair<std::string, std::string>, PodPtr> pods_by_name_;  // (ns, name)
  std::unordered_map<model::Identity, size_t> pods_of_;
  std::unordered_map<model::Identity, identity::CertificatePtr> certificates_;
  std::unordered_map<model::Identity, SharedIdentity> shared_identities_;  // of late
  std::multimap<model::Identity, Connection*> waiting_for_certificate_;
  std::unordered_map<Connection*, std::unique_ptr<Connection>> connections_;
  std::atomic<size_t> alive_{0};  // how many those are
  std::unique_ptr<tls::HandshakeShared> handshakes_;
  std::unique_ptr<hbone::Pool> pool_, inner_pool_;
  Sharing sharing_;
  std::unique_ptr<SpareSockets> spare_sockets_;
  std::unique_ptr<dns::Resolver> resolver_;  // of destinations that are known by name only
  ConnectionMover mover_{*this};
  bool draining_ = false;
  bool stopped_ = false;      // main thread
  event::LoopThread thread_;  // last: joined before the rest goes
};

template <typename Visit>
void Worker::ForEachConnection(Visit visit) {
  // A visit may release its connection, which lives until the end of the round.
  std::vector<Connection*> all;
  all.reserve(connections_.size());
  for (const auto& [pointer, owned] : connections_) all.push_back(pointer);
  for (Connection* connection : all) visit(*connection);
}

}  // namespace qanat::ztunnel
