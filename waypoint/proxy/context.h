// SPDX-License-Identifier: Apache-2.0
// What one worker's connections and requests share. Owned by the Worker, worker thread only.
#pragma once

#include <memory>
#include <random>

#include "common/event/event_loop.h"
#include "waypoint/config/config.h"
#include "waypoint/proxy/cluster_state.h"
#include "waypoint/proxy/dialer.h"
#include "waypoint/proxy/settings.h"
#include "waypoint/proxy/telemetry.h"
#include "waypoint/proxy/upstream_pool.h"

namespace qanat::waypoint {

struct WorkerContext {
  event::EventLoop& loop;
  const ProxySettings& settings;
  SnapshotPtr snapshot;
  ClusterTable clusters;
  Dialer& dialer;
  UpstreamPool& upstream;
  TelemetrySink& telemetry;
  std::mt19937_64 random{std::random_device{}()};
  bool draining = false;
};

// Owns things that end by themselves: they ask to be released, and die after the present round.
class Owner {
 public:
  virtual void Release(event::Deferred* object) = 0;

 protected:
  ~Owner() = default;
};

}  // namespace qanat::waypoint
