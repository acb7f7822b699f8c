// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/metrics.h"

namespace qanat::ztunnel {

Metrics::Metrics(metrics::Registry& r)
    : opened(
          r.AddCounter("istio_tcp_connections_opened", "TCP connections opened", FlowLabelNames())),
      closed(
          r.AddCounter("istio_tcp_connections_closed", "TCP connections closed", FlowLabelNames())),
      failed(r.AddCounter("istio_tcp_connections_failed",
                          "TCP connections that ended with a response flag", FlowLabelNames())),
      sent(r.AddCounter("istio_tcp_sent_bytes", "Bytes sent by servers to clients",
                        FlowLabelNames())),
      received(r.AddCounter("istio_tcp_received_bytes", "Bytes sent by clients to servers",
                            FlowLabelNames())),
      sockets_open(
          r.AddGauge("istio_tcp_sockets_open", "Accepted sockets that are open", {"reporter"})),
      refused(r.AddCounter("qanat_connections_refused",
                           "Connections refused or ended early, by the one set of reasons",
                           {"reporter", "reason"})),
      one_pass(r.AddCounter("qanat_one_pass_connections",
                            "Connections between two pods of this node in one pass", {"outcome"})),
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
      certificate_failures(
          r.AddCounter("qanat_certificate_failures", "Certificate requests that failed")) {
  r.AddGauge("istio_build", "Version of this component", {"component", "tag"})
      .With({"ztunnel", QANAT_VERSION})
      ->Set(1);
}

const Series& SeriesCache::For(const Flow& flow, model::Reason reason) {
  const metrics::LabelValues labels = FlowLabels(flow, reason);
  std::string key;
  for (const std::string& value : labels) key.append(value).push_back('\0');
  auto [it, inserted] = series_.try_emplace(std::move(key));
  if (inserted) {
    it->second.closed = metrics_.closed.With(labels);
    if (ResponseFlag(reason) == ResponseFlag(model::Reason::kNone)) {
      it->second.opened = metrics_.opened.With(labels);
      it->second.sent = metrics_.sent.With(labels);
      it->second.received = metrics_.received.With(labels);
    } else {
      it->second.failed = metrics_.failed.With(labels);
    }
  }
  return it->second;
}

}  // namespace qanat::ztunnel
