// SPDX-License-Identifier: Apache-2.0
// The wiring page of the proxy: who exists, on which thread, and what flows between them.
//
//   main thread:  xDS client -> MeshState -> snapshots --Post--> workers
//                 ZDS client -> Pods -> listeners ------Post--> workers
//                 CA client -> SecretManager -> certificates --Post--> workers
//                 admin, metrics, signals
//   workers:      everything that carries users' bytes; readiness answers from worker 0
#pragma once

#include <unistd.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/admin/server.h"
#include "common/grpc/channel.h"
#include "common/identity/secret_manager.h"
#include "common/metrics/registry.h"
#include "common/state/mesh_state.h"
#include "common/xds/delta_client.h"
#include "ztunnel/config.h"
#include "ztunnel/local_source.h"
#include "ztunnel/memory/keeper.h"
#include "ztunnel/on_demand.h"
#include "ztunnel/pods.h"
#include "ztunnel/profile/cpu.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/readiness.h"
#include "ztunnel/saved_state.h"
#include "ztunnel/takeover/predecessor.h"
#include "ztunnel/takeover/stock.h"
#include "ztunnel/takeover/successor.h"
#include "ztunnel/telemetry/pool_metrics.h"
#include "ztunnel/telemetry/sweep.h"
#include "ztunnel/trust/trust.h"
#include "ztunnel/watchdog.h"
#include "ztunnel/zds/client.h"

namespace qanat::ztunnel {

std::string TimeText(std::chrono::system_clock::time_point time);  // 2026-11-22T05:22:27Z

class App {
 public:
  // `loop` is the main thread's; `stopped` is called on it when a drain has come to its end.
  App(event::EventLoop& loop, Config config, std::function<void()> stopped);
  ~App();
  App(const App&) = delete;
  App& operator=(const App&) = delete;

  Status Start();
  // No new connections; ends when the existing ones have, or at the deadline. A second call ends
  // at once.
  void Drain();

  // For tests: the addresses really bound.
  net::SocketAddress admin_address() const { return admin_address_; }
  net::SocketAddress metrics_address() const { return metrics_address_; }
  net::SocketAddress readiness_address() const { return readiness_address_; }

 private:
  class AddressHandler;
  class AuthorizationHandler;

  // The saved state: true when it is there and in force.
  bool LoadSaved();
  void LookAtSaved();
  void SetFreshness(state::Freshness freshness);
  void AddStateMetrics();
  std::chrono::seconds StateAge() const;
  void OnSynced();
  void StartXds();
  void StartPods();
  void ServePods();
  void AddTakeoverMetrics();
  void AddLoopMetrics();
  void AddZdsMetrics();
  Status StartAdmin();
  Status StartReadiness();
  void StartMemory();
  void StartWatchdog();
  void AddAdminRoutes();
  void AddProfileRoute();
  void AddHeapRoutes();
  void PostSnapshot();
  // `touched`: names of workloads and services that came, changed or went.
  void Publish(const std::vector<KeptText>& touched);
  void NoteNodeWorkloads(const std::vector<KeptText>& names);
  void PrefetchNames();  // on demand: what our pods' connections will need
  void CheckTrustDomain(const model::Workload& own);
  void RefreshCertificates();  // asks for those of our pods and our node, forgets the others
  void OnCertificate(const model::Identity& identity, const identity::CertificatePtr& certificate);
  void WantCertificate(const model::Identity& identity);
  void UpdateReadiness();
  void CheckDrained();
  void SweepSeries();
  void Finish();
  // Calls `collect` on each worker's thread, then `done` on the main one with all results.
  template <typename T>
  void Gather(std::function<T(Worker&)> collect, std::function<void(std::vector<T>)> done);

  event::EventLoop& loop_;
  std::function<void()> stopped_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // gone: posted tasks do nothing
  metrics::Registry registry_;
  Metrics metrics_;
  PoolMetrics pool_metrics_;
  log::LineWriter access_log_{STDERR_FILENO};
  SeriesSweeper sweeper_;
  event::Timer sweep_;
  Environment environment_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<MemoryKeeper> memory_;
  std::unique_ptr<Watchdog> watchdog_;
  std::unique_ptr<profile::CpuProfiler> profiler_;

  state::MeshState mesh_state_;
  state::SnapshotPtr snapshot_;
  std::shared_ptr<AddressHandler> address_handler_;
  std::shared_ptr<AuthorizationHandler> authorization_handler_;
  std::unique_ptr<grpc::Channel> xds_channel_;
  std::unique_ptr<xds::DeltaClient> xds_;
  std::unique_ptr<OnDemand> on_demand_;  // none: all of the mesh is subscribed to
  std::unique_ptr<LocalSource> local_;
  std::unique_ptr<SavedState> saved_;                          // none: nothing is saved
  xds::DeltaClient::Versions held_addresses_, held_policies_;  // from there, until xds_ has them
  event::Timer look_at_saved_;

  std::unique_ptr<grpc::Channel> ca_channel_;
  std::unique_ptr<identity::CaClient> ca_client_;
  std::unique_ptr<identity::Clock> clock_;
  std::unique_ptr<identity::SecretManager> secrets_;
  std::unique_ptr<Trust> trust_;
  std::set<model::Identity> wanted_identities_;
  bool trust_domain_said_ = false;  // that it is another one than was set
  // Workloads of this node that take HBONE, by uid: their pods will come to us.
  std::map<KeptText, model::Identity> node_workloads_;

  ListenerStock stock_;
  std::unique_ptr<ListenerKeeper> keeper_;
  std::unique_ptr<Predecessor> predecessor_;  // the process before this one
  std::unique_ptr<Successor> successor_;      // ... and the one after it
  std::unique_ptr<Pods> pods_;
  bool pods_started_ = false, pods_served_ = false;
  bool taken_over_ = false;  // or there was nothing to take over
  std::unique_ptr<zds::Client> zds_;

  std::unique_ptr<admin::Server> admin_;
  std::unique_ptr<admin::Server> metrics_server_;
  std::unique_ptr<admin::Server> readiness_server_;  // lives on worker 0's loop
  Readiness readiness_{.pending = "xds, zds"};       // worker 0's thread
  net::SocketAddress admin_address_, metrics_address_, readiness_address_;

  event::Timer drain_poll_;
  event::TimePoint drain_deadline_;
  bool draining_ = false;
};

template <typename T>
void App::Gather(std::function<T(Worker&)> collect, std::function<void(std::vector<T>)> done) {
  auto results = std::make_shared<std::vector<T>>();
  const size_t expected = workers_.size();
  for (auto& worker : workers_) {
    worker->loop().Post([this, raw = worker.get(), collect, done, results, expected] {
      auto result = std::make_shared<T>(collect(*raw));
      environment_.post_main([results, result, expected, done] {
        results->push_back(std::move(*result));
        if (results->size() == expected) done(std::move(*results));
      });
    });
  }
}

}  // namespace qanat::ztunnel
