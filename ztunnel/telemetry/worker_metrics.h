// SPDX-License-Identifier: Apache-2.0
// One worker's part of the proxy's metrics: what it counts, it counts where no other thread writes,
// and without locks. Made and used on any one thread at a time; series_cache.h has the flows.
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <string>

#include "common/metrics/shard.h"
#include "ztunnel/telemetry/metrics.h"

namespace qanat::ztunnel {

struct WorkerMetrics {
  explicit WorkerMetrics(Metrics& all);
  // Series were removed from the families.
  void ForgetRemoved();

  using Counters = metrics::Shard<metrics::Counter>;
  using Histograms = metrics::Shard<metrics::Histogram>;
  metrics::Shard<metrics::Gauge> sockets_open;
  Counters refused, one_pass, shared_streams, early_data, tunnel_errors;
  Counters accept_paused, connect_retries, ejections, forwarded_network_ignored;
  Counters crl_rejections, crl_untracked;
  Counters resumptions, handshakes;
  Histograms handshake_duration, setup;
  Counters dns_requests, dns_upstream_requests, dns_upstream_failures;
  Histograms dns_upstream_duration;
  Counters dns_answers, on_demand_dns;
};

// What the time until a connection is relayed goes into.
enum class SetupPhase : uint8_t {
  kQueue,    // until it is known whose it is and where it goes
  kDns,      // resolving a destination that is known by name only
  kTls,      // the handshake of the tunnel that was made for it
  kPolicy,   // the destination's policies
  kConnect,  // to the other end, without the handshake
};

// The histograms of one reporter.
class SetupTimes {
 public:
  SetupTimes(WorkerMetrics& metrics, const std::string& reporter);
  void Observe(SetupPhase phase, std::chrono::steady_clock::duration time) {
    phases_[static_cast<size_t>(phase)]->Observe(std::chrono::duration<double>(time).count());
  }

 private:
  std::array<std::shared_ptr<metrics::Histogram>, 5> phases_;
};

}  // namespace qanat::ztunnel
