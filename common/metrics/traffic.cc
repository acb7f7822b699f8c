// SPDX-License-Identifier: Apache-2.0
#include "common/metrics/traffic.h"

namespace qanat::metrics {
namespace {

void Add(LabelValues& out, std::string_view text) {
  out.emplace_back(text.empty() ? std::string_view("unknown") : text);
}

void AddEnd(LabelValues& out, const TrafficEnd& end) {
  for (const std::string_view text : {end.workload, end.canonical_name, end.canonical_revision,
                                      end.ns, end.principal, end.app, end.version, end.cluster}) {
    Add(out, text);
  }
}

}  // namespace

const LabelNames& TrafficLabelNames() {
  static const LabelNames names = {"reporter",
                                   "source_workload",
                                   "source_canonical_service",
                                   "source_canonical_revision",
                                   "source_workload_namespace",
                                   "source_principal",
                                   "source_app",
                                   "source_version",
                                   "source_cluster",
                                   "destination_service",
                                   "destination_service_namespace",
                                   "destination_service_name",
                                   "destination_workload",
                                   "destination_canonical_service",
                                   "destination_canonical_revision",
                                   "destination_workload_namespace",
                                   "destination_principal",
                                   "destination_app",
                                   "destination_version",
                                   "destination_cluster",
                                   "request_protocol",
                                   "response_flags",
                                   "connection_security_policy"};
  return names;
}

LabelValues TrafficLabelValues(const Traffic& traffic) {
  LabelValues out;
  out.reserve(TrafficLabelNames().size() + 4);  // what callers append
  out.emplace_back(traffic.reporter);
  AddEnd(out, traffic.source);
  Add(out, traffic.service);
  Add(out, traffic.service_namespace);
  Add(out, traffic.service_name);
  AddEnd(out, traffic.destination);
  out.emplace_back(traffic.request_protocol);
  out.emplace_back(traffic.response_flags);
  out.emplace_back(traffic.connection_security_policy);
  return out;
}

}  // namespace qanat::metrics
