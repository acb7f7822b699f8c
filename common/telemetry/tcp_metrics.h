// SPDX-License-Identifier: Apache-2.0
// Istio's metrics of TCP connections, by FlowLabelNames(): of the proxy's connections, and of those
// that the kernel lets past it.
#pragma once

#include "common/metrics/registry.h"

namespace qanat::telemetry {

struct TcpMetrics {
  explicit TcpMetrics(metrics::Registry& registry);  // the same families each time

  metrics::Family<metrics::Counter>& opened;
  metrics::Family<metrics::Counter>& closed;
  metrics::Family<metrics::Counter>& failed;
  metrics::Family<metrics::Counter>& sent;
  metrics::Family<metrics::Counter>& received;
};

}  // namespace qanat::telemetry
