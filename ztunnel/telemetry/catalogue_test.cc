// SPDX-License-Identifier: Apache-2.0
// Names, kinds and labels of the stock proxy's metrics: what its users' dashboards and alerts ask
// for. Those of the runtime: runtime_metrics_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ztunnel/telemetry/flow.h"
#include "ztunnel/telemetry/metrics.h"

namespace qanat::ztunnel {
namespace {

using ::testing::HasSubstr;

constexpr const char* kTraffic =
    "reporter,source_workload,source_canonical_service,source_canonical_revision,"
    "source_workload_namespace,source_principal,source_app,source_version,source_cluster,"
    "destination_service,destination_service_namespace,destination_service_name,"
    "destination_workload,destination_canonical_service,destination_canonical_revision,"
    "destination_workload_namespace,destination_principal,destination_app,destination_version,"
    "destination_cluster,request_protocol,response_flags,connection_security_policy,"
    "source_region,source_zone,destination_region,destination_zone";
constexpr const char* kDns =
    "request_query_type,request_protocol,source_canonical_service,source_canonical_revision";
constexpr const char* kOnDemand =
    "source_workload,source_canonical_service,source_canonical_revision,"
    "source_workload_namespace,source_principal,source_app,source_version,source_cluster,hostname";

// The names of the labels of the first sample of that name, with commas between.
std::string LabelsOf(const std::string& text, const std::string& sample) {
  size_t at = text.find("\n" + sample);
  if (at == text.npos) return "no such sample";
  at += 1 + sample.size();
  std::string out;
  bool quoted = false;
  for (; at < text.size() && text[at] != '\n' && (quoted || text[at] != ' '); ++at) {
    const char c = text[at];
    if (c == '"') quoted = !quoted;
    if (!quoted && (c == ',' || c == '_' || (c >= 'a' && c <= 'z'))) out += c;
  }
  return out;
}

TEST(Catalogue, NamesKindsAndLabelsAreTheReferences) {
  metrics::Registry registry;
  Metrics all(registry);
  registry.AddProcessMetrics();
  // A label without a value is left out; more values than labels do no harm.
  const metrics::LabelValues every(FlowLabelNames().size(), "x");
  for (auto* counter :
       {&all.opened, &all.closed, &all.failed, &all.sent, &all.received, &all.on_demand_dns,
        &all.crl_rejections, &all.crl_untracked, &all.xds_terminations, &all.xds_messages,
        &all.xds_bytes, &all.dns_requests, &all.dns_upstream_requests, &all.dns_upstream_failures,
        &all.proxies_started, &all.proxies_stopped}) {
    counter->With(every);
  }
  all.sockets_open.With(every);
  all.active_proxies.With({});
  all.pending_proxies.With({});
  all.dns_upstream_duration.With(every);
  const std::string text = registry.Render(metrics::TextFormat::kOpenMetrics);
  struct Row {
    const char* name;
    const char* kind;
    const char* labels;
  };
  const Row rows[] = {
      {"istio_tcp_connections_opened", "counter", kTraffic},
      {"istio_tcp_connections_closed", "counter", kTraffic},
      {"istio_tcp_connections_failed", "counter", kTraffic},
      {"istio_tcp_sent_bytes", "counter", kTraffic},
      {"istio_tcp_received_bytes", "counter", kTraffic},
      {"istio_tcp_sockets_open", "gauge", "reporter"},
      {"istio_on_demand_dns", "counter", kOnDemand},
      {"istio_crl_policy_rejections", "counter", "reporter"},
      {"istio_crl_untracked_connections", "counter", "reporter"},
      {"istio_build", "gauge", "component,tag"},
      {"istio_xds_connection_terminations", "counter", "reason"},
      {"istio_xds_message", "counter", "url"},
      {"istio_xds_message_bytes", "counter", "url"},
      {"istio_dns_requests", "counter", kDns},
      {"istio_dns_upstream_requests", "counter", kDns},
      {"istio_dns_upstream_failures", "counter", kDns},
      {"istio_dns_upstream_request_duration_seconds", "histogram", kDns},
      {"workload_manager_active_proxy_count", "gauge", ""},
      {"workload_manager_pending_proxy_count", "gauge", ""},
      {"workload_manager_proxies_started", "counter", ""},
      {"workload_manager_proxies_stopped", "counter", ""},
      {"process_open_fds", "gauge", ""},
      {"process_max_fds", "gauge", ""},
  };
  for (const Row& row : rows) {
    const std::string name = row.name, kind = row.kind;
    EXPECT_THAT(text, HasSubstr("# TYPE " + name + " " + kind + "\n"));
    const std::string labelled = *row.labels == '\0' ? "" : "{";
    const std::string suffix = kind == "counter" ? "_total" : kind == "histogram" ? "_count" : "";
    EXPECT_EQ(LabelsOf(text, name + suffix + labelled), row.labels) << name;
  }
  EXPECT_THAT(text, HasSubstr("\nistio_build{component=\"ztunnel\",tag=\""));
}

}  // namespace
}  // namespace qanat::ztunnel
