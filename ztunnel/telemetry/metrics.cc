// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/metrics.h"

namespace qanat::ztunnel {
namespace {

// The labels of a flow begin with reporter and what concerns its source.
metrics::LabelValues OfSource(const metrics::LabelValues& flow, const std::string& hostname) {
  metrics::LabelValues out(flow.begin() + 1, flow.begin() + 9);
  out.push_back(hostname);
  return out;
}

}  // namespace

const metrics::LabelNames& OnDemandDnsLabelNames() {
  static const metrics::LabelNames names = OfSource(FlowLabelNames(), "hostname");
  return names;
}

metrics::LabelValues OnDemandDnsLabels(const Flow& flow, const std::string& hostname) {
  return OfSource(FlowLabels(flow, model::Reason::kNone), hostname);
}

const metrics::LabelNames& DnsLabelNames() {
  static const metrics::LabelNames names{"request_query_type", "request_protocol",
                                         "source_canonical_service", "source_canonical_revision"};
  return names;
}

Metrics::Metrics(metrics::Registry& r) : Metrics(r, telemetry::TcpMetrics(r)) {}

Metrics::Metrics(metrics::Registry& r, const telemetry::TcpMetrics& tcp)
    : opened(tcp.opened),
      closed(tcp.closed),
      failed(tcp.failed),
      sent(tcp.sent),
      received(tcp.received),
      sockets_open(
          r.AddGauge("istio_tcp_sockets_open", "Accepted sockets that are open", {"reporter"})),
      refused(r.AddCounter("qanat_connections_refused",
                           "Connections refused or ended early, by the one set of reasons",
                           {"reporter", "reason"})),
      one_pass(r.AddCounter("qanat_one_pass_connections",
                            "Connections between two pods of this node in one pass", {"outcome"})),
      shared_streams(r.AddCounter(
          "qanat_shared_streams",
          "Connections over tunnels that the pods of an identity share; refused, timeout: went on "
          "over the pod's own",
          {"outcome"})),
      early_data(r.AddCounter(
          "qanat_early_data",
          "Connections whose first bytes went along with the CONNECT; dropped: refused with it; "
          "unknown: not answered, so no other endpoint was given them",
          {"outcome"})),
      tunnel_errors(r.AddCounter("qanat_inbound_tunnel_errors",
                                 "Inbound tunnels that failed before or between requests",
                                 {"reason"})),
      active_proxies(r.AddGauge("workload_manager_active_proxy_count", "Pods that are proxied")),
      pending_proxies(r.AddGauge("workload_manager_pending_proxy_count",
                                 "Pods whose proxy could not be started yet")),
      proxies_started(r.AddCounter("workload_manager_proxies_started", "Pod proxies started")),
      proxies_stopped(r.AddCounter("workload_manager_proxies_stopped", "Pod proxies stopped")),
      xds_terminations(
          r.AddCounter("istio_xds_connection_terminations", "xDS streams that ended", {"reason"})),
      xds_messages(r.AddCounter("istio_xds_message", "xDS messages received", {"url"})),
      xds_bytes(r.AddCounter("istio_xds_message_bytes", "Bytes of xDS messages received", {"url"})),
      setup(r.AddHistogram("qanat_connection_setup_seconds",
                           "Time until a connection is relayed, by what it was spent on",
                           {0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025,
                            0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10},
                           {"reporter", "phase"})),
      accept_paused(r.AddCounter("qanat_accept_paused",
                                 "Times that a listener accepted nothing for 100 ms, because file "
                                 "descriptors or memory had run out")),
      connect_retries(r.AddCounter(
          "qanat_connect_retries",
          "Outgoing connections that went on to another endpoint, by what the one before failed of",
          {"reason"})),
      ejections(r.AddCounter("qanat_endpoint_ejections",
                             "Times that a worker left a failing endpoint out for a while")),
      forwarded_network_ignored(
          r.AddCounter("qanat_forwarded_network_ignored",
                       "Incoming connections that claimed to be from another network without being "
                       "from its gateway")),
      series_overflow(r.AddCounter("qanat_metric_series_overflow",
                                   "Sets of labels that are counted in one common series, because "
                                   "there were too many (each worker tells its own)")),
      crl_rejections(r.AddCounter(
          "istio_crl_policy_rejections",
          "Connections refused or ended because a certificate of the peer's chain is revoked",
          {"reporter"})),
      crl_untracked(r.AddCounter(
          "istio_crl_untracked_connections",
          "Tunnelled connections that a later revocation could not end: their peer is not known",
          {"reporter"})),
      resumptions(r.AddCounter("qanat_tls_resumptions",
                               "TLS handshakes that resumed a session of before", {"role"})),
      handshakes(r.AddCounter("qanat_tls_handshakes",
                              "TLS handshakes of tunnels by how they ended; shed: given up because "
                              "too many waited",
                              {"role", "outcome"})),
      handshake_duration(r.AddHistogram(
          "qanat_tls_handshake_duration_seconds", "Time that successful handshakes took",
          {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}, {"role"})),
      dns_requests(r.AddCounter("istio_dns_requests", "DNS questions of pods", DnsLabelNames())),
      dns_upstream_requests(r.AddCounter("istio_dns_upstream_requests",
                                         "DNS questions sent to name servers", DnsLabelNames())),
      dns_upstream_failures(r.AddCounter("istio_dns_upstream_failures",
                                         "DNS questions that a name server did not answer",
                                         DnsLabelNames())),
      dns_upstream_duration(r.AddHistogram(
          "istio_dns_upstream_request_duration_seconds", "Time until a name server answered",
          {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5},
          DnsLabelNames())),
      dns_answers(r.AddCounter("qanat_dns_answers",
                               "DNS answers given to pods, by where they came from", {"origin"})),
      on_demand_dns(r.AddCounter("istio_on_demand_dns",
                                 "Resolutions of destinations that are known by name only",
                                 OnDemandDnsLabelNames())) {
  r.AddGauge("istio_build", "Version of this component", {"component", "tag"})
      .With({"ztunnel", QANAT_VERSION})
      ->Set(1);
}

}  // namespace qanat::ztunnel
