// SPDX-License-Identifier: Apache-2.0
// The proxy's metrics: Istio's names and labels for traffic, our own for what stock proxies leave
// uncounted (refusals by reason, tunnels). One object per process; each worker counts in its own
// part of it (worker_metrics.h, series_cache.h), so that a connection takes no lock.
#pragma once

#include <string>

#include "common/metrics/registry.h"
#include "common/telemetry/tcp_metrics.h"
#include "ztunnel/telemetry/flow.h"

namespace qanat::ztunnel {

struct Metrics {
  explicit Metrics(metrics::Registry& registry);

  metrics::Family<metrics::Counter>& opened;
  metrics::Family<metrics::Counter>& closed;
  metrics::Family<metrics::Counter>& failed;
  metrics::Family<metrics::Counter>& sent;
  metrics::Family<metrics::Counter>& received;
  metrics::Family<metrics::Gauge>& sockets_open;      // reporter
  metrics::Family<metrics::Counter>& refused;         // reporter, reason
  metrics::Family<metrics::Counter>& one_pass;        // outcome: taken, denied
  metrics::Family<metrics::Counter>& shared_streams;  // outcome: taken, refused
  metrics::Family<metrics::Counter>& early_data;      // outcome: taken, dropped, unknown
  metrics::Family<metrics::Counter>& tunnel_errors;   // reason: of inbound tunnels before a CONNECT
  metrics::Family<metrics::Gauge>& active_proxies;
  metrics::Family<metrics::Gauge>& pending_proxies;
  metrics::Family<metrics::Counter>& proxies_started;
  metrics::Family<metrics::Counter>& proxies_stopped;
  metrics::Family<metrics::Counter>& xds_terminations;  // reason
  metrics::Family<metrics::Counter>& xds_messages;      // url
  metrics::Family<metrics::Counter>& xds_bytes;         // url
  metrics::Family<metrics::Histogram>& setup;           // reporter, phase
  metrics::Family<metrics::Counter>& accept_paused;
  metrics::Family<metrics::Counter>& connect_retries;  // reason: why the endpoint before failed
  metrics::Family<metrics::Counter>& ejections;
  metrics::Family<metrics::Counter>& forwarded_network_ignored;
  metrics::Family<metrics::Counter>& series_overflow;  // flows counted without their own labels
  metrics::Family<metrics::Counter>& crl_rejections;   // reporter
  metrics::Family<metrics::Counter>& crl_untracked;    // reporter
  metrics::Family<metrics::Counter>& resumptions;      // role
  metrics::Family<metrics::Counter>& handshakes;       // role, outcome
  metrics::Family<metrics::Histogram>& handshake_duration;  // role
  // Of the DNS proxy, by DnsLabelNames().
  metrics::Family<metrics::Counter>& dns_requests;
  metrics::Family<metrics::Counter>& dns_upstream_requests;
  metrics::Family<metrics::Counter>& dns_upstream_failures;
  metrics::Family<metrics::Histogram>& dns_upstream_duration;
  metrics::Family<metrics::Counter>& dns_answers;    // origin
  metrics::Family<metrics::Counter>& on_demand_dns;  // OnDemandDnsLabelNames()

 private:
  Metrics(metrics::Registry& registry, const telemetry::TcpMetrics& tcp);
};

// request_query_type, request_protocol, source_canonical_service, source_canonical_revision.
const metrics::LabelNames& DnsLabelNames();
// How the last two are shown.
inline std::string DnsLabel(const std::string& name) { return name.empty() ? "unknown" : name; }
// What a destination that is known by name only was resolved for: the source_* of a flow, hostname.
const metrics::LabelNames& OnDemandDnsLabelNames();
metrics::LabelValues OnDemandDnsLabels(const Flow& flow, const std::string& hostname);

}  // namespace qanat::ztunnel
