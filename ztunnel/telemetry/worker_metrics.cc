// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/worker_metrics.h"

namespace qanat::ztunnel {

WorkerMetrics::WorkerMetrics(Metrics& all)
    : sockets_open(all.sockets_open),
      refused(all.refused),
      one_pass(all.one_pass),
      shared_streams(all.shared_streams),
      early_data(all.early_data),
      tunnel_errors(all.tunnel_errors),
      accept_paused(all.accept_paused),
      connect_retries(all.connect_retries),
      ejections(all.ejections),
      forwarded_network_ignored(all.forwarded_network_ignored),
      crl_rejections(all.crl_rejections),
      crl_untracked(all.crl_untracked),
      resumptions(all.resumptions),
      handshakes(all.handshakes),
      handshake_duration(all.handshake_duration),
      setup(all.setup),
      dns_requests(all.dns_requests),
      dns_upstream_requests(all.dns_upstream_requests),
      dns_upstream_failures(all.dns_upstream_failures),
      dns_upstream_duration(all.dns_upstream_duration),
      dns_answers(all.dns_answers),
      on_demand_dns(all.on_demand_dns) {}

void WorkerMetrics::ForgetRemoved() {
  for (Counters* shard :
       {&dns_requests, &dns_upstream_requests, &dns_upstream_failures, &on_demand_dns}) {
    shard->ForgetRemoved();
  }
  dns_upstream_duration.ForgetRemoved();
}

SetupTimes::SetupTimes(WorkerMetrics& metrics, const std::string& reporter)
    : phases_{metrics.setup.With({reporter, "queue"}), metrics.setup.With({reporter, "dns"}),
              metrics.setup.With({reporter, "tls"}), metrics.setup.With({reporter, "policy"}),
              metrics.setup.With({reporter, "connect"})} {}

}  // namespace qanat::ztunnel
