// SPDX-License-Identifier: Apache-2.0
// The wiring page of the proxy: who exists, on which thread, and what flows between them.
//
//   main thread:  xDS client -> MeshState -> snapshots --Post--> workers
//                 ZDS client -> Pods -> listeners ------Post--> workers
//                 CA client -> SecretManager -> certificates --Post--> workers
//                 admin, metrics, signals
//   workers:      everything that carries users' bytes; readiness answers from worker 0
#pragma once

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
#include "ztunnel/pods.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/zds/client.h"

namespace qanat::ztunnel {

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

  void StartXds();
  void StartZds();
  Status StartAdmin();
  Status StartReadiness();
  void AddAdminRoutes();
  void Publish();
  void RefreshCertificates();  // asks for those of our pods, forgets the others
  void OnCertificate(const model::Identity& identity, const identity::CertificatePtr& certificate);
  void WantCertificate(const model::Identity& identity);
  void UpdateReadiness();
  void CheckDrained();
  void Finish();
  // Calls `collect` on each worker's thread, then `done` on the main one with all results.
  template <typename T>
  void Gather(std::function<T(Worker&)> collect, std::function<void(std::vector<T>)> done);

  event::EventLoop& loop_;
  std::function<void()> stopped_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // gone: posted tasks do nothing
  metrics::Registry registry_;
  Metrics metrics_;
  Environment environment_;
  std::vector<std::unique_ptr<Worker>> workers_;

  state::MeshState mesh_state_;
  state::SnapshotPtr snapshot_;
  std::unique_ptr<AddressHandler> address_handler_;
  std::unique_ptr<AuthorizationHandler> authorization_handler_;
  std::unique_ptr<grpc::Channel> xds_channel_;
  std::unique_ptr<xds::DeltaClient> xds_;

  std::unique_ptr<grpc::Channel> ca_channel_;
  std::unique_ptr<identity::CaClient> ca_client_;
  std::unique_ptr<identity::Clock> clock_;
  std::unique_ptr<identity::SecretManager> secrets_;
  std::set<model::Identity> wanted_identities_;

  std::unique_ptr<Pods> pods_;
  std::unique_ptr<zds::Client> zds_;

  std::unique_ptr<admin::Server> admin_;
  std::unique_ptr<admin::Server> metrics_server_;
  std::unique_ptr<admin::Server> readiness_server_;  // lives on worker 0's loop
  std::string not_ready_ = "xds, zds";               // worker 0's thread
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
