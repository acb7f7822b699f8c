// SPDX-License-Identifier: Apache-2.0
// The proxy's metrics: Istio's names and labels for traffic, our own for what stock proxies leave
// uncounted (refusals by reason, tunnels). One object per process; each worker has a SeriesCache,
// so that a connection costs a lookup without locks.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "common/metrics/registry.h"
#include "ztunnel/telemetry/flow.h"

namespace qanat::ztunnel {

struct Metrics {
  explicit Metrics(metrics::Registry& registry);

  metrics::Family<metrics::Counter>& opened;
  metrics::Family<metrics::Counter>& closed;
  metrics::Family<metrics::Counter>& failed;
  metrics::Family<metrics::Counter>& sent;
  metrics::Family<metrics::Counter>& received;
  metrics::Family<metrics::Gauge>& sockets_open;     // reporter
  metrics::Family<metrics::Counter>& refused;        // reporter, reason
  metrics::Family<metrics::Counter>& one_pass;       // outcome: taken, denied
  metrics::Family<metrics::Counter>& tunnel_errors;  // reason: of inbound tunnels before a CONNECT
  metrics::Family<metrics::Gauge>& active_proxies;
  metrics::Family<metrics::Gauge>& pending_proxies;
  metrics::Family<metrics::Counter>& proxies_started;
  metrics::Family<metrics::Counter>& proxies_stopped;
  metrics::Family<metrics::Counter>& xds_terminations;  // reason
  metrics::Family<metrics::Counter>& xds_messages;      // url
  metrics::Family<metrics::Counter>& xds_bytes;         // url
  metrics::Family<metrics::Counter>& certificate_failures;
};

// The counters of one label set: opened, sent and received only of the one without a flag, failed
// only of those with one.
struct Series {
  std::shared_ptr<metrics::Counter> opened, closed, failed, sent, received;
};

class SeriesCache {
 public:
  explicit SeriesCache(Metrics& metrics) : metrics_(metrics) {}
  const Series& For(const Flow& flow, model::Reason reason);
  Metrics& metrics() { return metrics_; }

 private:
  Metrics& metrics_;
  std::unordered_map<std::string, Series> series_;
};

}  // namespace qanat::ztunnel
