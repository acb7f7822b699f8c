// SPDX-License-Identifier: Apache-2.0
// The data path as a whole: N worker threads behind one port. Everything here is called on the main
// thread; what goes to the workers goes by Post as immutable values. Knows nothing of xDS or of
// certificate authorities: the app feeds it, and tests do.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "common/base/result.h"
#include "common/metrics/registry.h"
#include "waypoint/proxy/worker.h"

namespace qanat::waypoint {

class Proxy {
 public:
  Proxy(event::EventLoop& main, ProxySettings settings, metrics::Registry& registry);
  ~Proxy();  // ends at once what still runs

  // Opens the port and starts the threads; the bound address (port 0 picks one).
  Result<net::SocketAddress> Start();
  void SetSnapshot(SnapshotPtr snapshot);
  void SetCertificates(tls::TlsContextPtr server, tls::TlsContextPtr client);
  // `drained` on the main thread, once all is over or at the deadline of the settings.
  void Drain(std::function<void()> drained);
  // `done` on the main thread with one entry per worker.
  void CollectStats(std::function<void(std::vector<WorkerStats>)> done);

 private:
  struct Thread;
  void OnAll(std::function<void(Worker&)> task);

  event::EventLoop& main_;
  ProxySettings settings_;
  TelemetryFamilies families_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::unique_ptr<event::Timer> drain_timer_;
  std::function<void()> drained_;
};

}  // namespace qanat::waypoint
