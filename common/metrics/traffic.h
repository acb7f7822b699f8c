// SPDX-License-Identifier: Apache-2.0
// The labels that Istio's traffic metrics (istio_tcp_*, istio_request*) have at every reporter, so
// that the numbers of a node proxy and of a waypoint can be joined. Values; a program appends what
// it alone has.
#pragma once

#include <string_view>

#include "common/metrics/registry.h"

namespace qanat::metrics {

// One end of a connection. What is empty is reported as "unknown".
struct TrafficEnd {
  std::string_view workload, canonical_name, canonical_revision, ns;
  std::string_view principal;  // with spiffe://
  std::string_view app, version, cluster;
};

struct Traffic {
  std::string_view reporter;  // source, destination, waypoint
  TrafficEnd source, destination;
  std::string_view service, service_namespace, service_name;
  std::string_view request_protocol, response_flags, connection_security_policy;
};

// The names, in the order of TrafficLabelValues (stock ztunnel's).
const LabelNames& TrafficLabelNames();
LabelValues TrafficLabelValues(const Traffic& traffic);

}  // namespace qanat::metrics
