// SPDX-License-Identifier: Apache-2.0
// Direct connections in the access log and in Istio's metrics, as the node proxy would have told of
// them in one pass: both ends' reports are this node's. Proxied ones are the proxy's to tell.
#pragma once

#include <string>

#include "agent/telemetry/ends.h"
#include "agent/telemetry/figures.h"
#include "common/telemetry/tcp_metrics.h"

namespace qanat::agent::telemetry {

qanat::telemetry::Flow FlowOf(const qanat_record& record, const Ends& ends);
qanat::telemetry::FlowEnd FlowEndOf(const qanat_record& record, const Figures& figures);

class DirectLog {
 public:
  explicit DirectLog(metrics::Registry& registry) : metrics_(registry) {}
  void Tell(const qanat_record& record, const Figures& figures, const Ends& ends);

 private:
  void Report(const qanat::telemetry::Flow& flow, const qanat::telemetry::FlowEnd& end);
  qanat::telemetry::TcpMetrics metrics_;
};

}  // namespace qanat::agent::telemetry
