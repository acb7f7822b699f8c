// SPDX-License-Identifier: Apache-2.0
// The tunnels of all workers as metrics: what their pools have and did (qanat_pool_*), and tunnels
// that were ended because of what the peer did (qanat_http2_abuse_total). Workers count, relaxed
// and without locks; the numbers are read while metrics are rendered.
#pragma once

#include <array>
#include <atomic>
#include <memory>

#include "common/hbone/pool_stats.h"
#include "common/metrics/registry.h"

namespace qanat::ztunnel {

class PoolMetrics {
 public:
  explicit PoolMetrics(metrics::Registry& registry);

  // For PoolOptions::counters of every worker: to other nodes, and through networks' gateways.
  const std::shared_ptr<hbone::PoolCounters>& direct() const { return state_->direct; }
  const std::shared_ptr<hbone::PoolCounters>& inner() const { return state_->inner; }
  // An inbound tunnel ended for this; any thread.
  void CountInbound(hbone::Abuse abuse) {
    if (abuse != hbone::Abuse::kNone) hbone::Count(state_->inbound[static_cast<size_t>(abuse)]);
  }

 private:
  struct State {
    std::shared_ptr<hbone::PoolCounters> direct = std::make_shared<hbone::PoolCounters>();
    std::shared_ptr<hbone::PoolCounters> inner = std::make_shared<hbone::PoolCounters>();
    std::array<std::atomic<uint64_t>, hbone::kAbuseKinds> inbound{};
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();  // the registry's callbacks hold it
};

}  // namespace qanat::ztunnel
