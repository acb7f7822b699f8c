// SPDX-License-Identifier: Apache-2.0
#include "common/telemetry/tcp_metrics.h"

#include "common/telemetry/flow.h"

namespace qanat::telemetry {

TcpMetrics::TcpMetrics(metrics::Registry& r)
    : opened(
          r.AddCounter("istio_tcp_connections_opened", "TCP connections opened", FlowLabelNames())),
      closed(
          r.AddCounter("istio_tcp_connections_closed", "TCP connections closed", FlowLabelNames())),
      failed(r.AddCounter("istio_tcp_connections_failed",
                          "TCP connections that ended with a response flag", FlowLabelNames())),
      sent(r.AddCounter("istio_tcp_sent_bytes", "Bytes sent by servers to clients",
                        FlowLabelNames())),
      received(r.AddCounter("istio_tcp_received_bytes", "Bytes sent by clients to servers",
                            FlowLabelNames())) {}

}  // namespace qanat::telemetry
