// SPDX-License-Identifier: Apache-2.0
// The wiring page of the waypoint: who exists, on which thread, and what flows between them.
//
//   main thread:  xDS client (LDS, CDS, RDS, EDS) -> ConfigStore -> snapshots --Post--> workers
//                 CA client -> SecretManager -> our own certificate ----------Post--> workers
//                 admin, metrics, readiness, signals
//   workers:      everything that carries users' bytes (proxy/)
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/admin/server.h"
#include "common/grpc/channel.h"
#include "common/identity/secret_manager.h"
#include "common/metrics/registry.h"
#include "common/xds/delta_client.h"
#include "waypoint/config/store.h"
#include "waypoint/proxy/proxy.h"
#include "waypoint/settings.h"

namespace qanat::waypoint {

class App {
 public:
  // `stopped` is called on the loop's thread when a drain has come to its end.
  App(event::EventLoop& loop, Settings settings, std::function<void()> stopped);
  ~App();
  App(const App&) = delete;
  App& operator=(const App&) = delete;

  Status Start();
  // No new connections; ends when the present ones have, or at the deadline. Again: at once.
  void Drain();

  net::SocketAddress hbone_address() const { return hbone_address_; }
  net::SocketAddress admin_address() const { return admin_address_; }
  net::SocketAddress metrics_address() const { return metrics_address_; }
  net::SocketAddress readiness_address() const { return readiness_address_; }

 private:
  class Handler;

  void StartCa();
  void StartXds();
  Status StartServers();
  void OnCertificate(const identity::CertificatePtr& certificate);
  std::string NotReady() const;  // "" when ready

  event::EventLoop& loop_;
  Settings settings_;
  std::function<void()> stopped_;
  metrics::Registry registry_;
  Proxy proxy_;
  ConfigStore store_;
  std::vector<std::unique_ptr<Handler>> handlers_;
  std::unique_ptr<grpc::Channel> xds_channel_, ca_channel_;
  std::unique_ptr<xds::DeltaClient> xds_;
  std::unique_ptr<identity::CaClient> ca_client_;
  std::unique_ptr<identity::Clock> clock_;
  std::unique_ptr<identity::SecretManager> secrets_;
  identity::CertificatePtr certificate_;
  std::unique_ptr<admin::Server> admin_, metrics_server_, readiness_;
  net::SocketAddress hbone_address_, admin_address_, metrics_address_, readiness_address_;
  bool draining_ = false;
};

}  // namespace qanat::waypoint
