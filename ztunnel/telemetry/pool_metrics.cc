// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/pool_metrics.h"

#include <string>
#include <vector>

namespace qanat::ztunnel {

namespace {

using hbone::PoolStats;

struct Row {
  metrics::Kind kind;
  const char* name;
  const char* help;
  double (*value)(const PoolStats&);
};

constexpr Row kRows[] = {
    {metrics::Kind::kGauge, "qanat_pool_tunnels",
     "HBONE tunnels to peers that are up, also those that drain",
     [](const PoolStats& s) { return static_cast<double>(s.tunnels); }},
    {metrics::Kind::kGauge, "qanat_pool_dialing", "HBONE tunnels that are being made",
     [](const PoolStats& s) { return static_cast<double>(s.dialing); }},
    {metrics::Kind::kGauge, "qanat_pool_waiting_streams", "Connections that wait for a tunnel",
     [](const PoolStats& s) { return static_cast<double>(s.waiting); }},
    {metrics::Kind::kCounter, "qanat_pool_dials", "Attempts to make an HBONE tunnel",
     [](const PoolStats& s) { return static_cast<double>(s.dialed); }},
    {metrics::Kind::kCounter, "qanat_pool_dial_failures", "Attempts to make a tunnel that failed",
     [](const PoolStats& s) { return static_cast<double>(s.failed); }},
    {metrics::Kind::kCounter, "qanat_pool_tunnel_failures",
     "HBONE tunnels that broke: framing, a GOAWAY with an error, silence, a reset",
     [](const PoolStats& s) { return static_cast<double>(s.broken); }},
    {metrics::Kind::kCounter, "qanat_pool_stripes",
     "Attempts made because all tunnels of a destination were busy with bulk",
     [](const PoolStats& s) { return static_cast<double>(s.stripes); }},
    {metrics::Kind::kCounter, "qanat_pool_streams_refused",
     "Streams that peers refused without processing them",
     [](const PoolStats& s) { return static_cast<double>(s.refused); }},
    {metrics::Kind::kCounter, "qanat_pool_streams_retried", "Refused streams that were tried again",
     [](const PoolStats& s) { return static_cast<double>(s.retried); }},
    {metrics::Kind::kCounter, "qanat_pool_streams_expired",
     "Streams that waited in vain for room in full tunnels",
     [](const PoolStats& s) { return static_cast<double>(s.expired); }},
};

}  // namespace

PoolMetrics::PoolMetrics(metrics::Registry& registry) {
  for (const Row& row : kRows) {
    registry.AddCallback(row.kind, row.name, row.help, [state = state_, value = row.value] {
      return std::vector<metrics::Sample>{{{{"pool", "direct"}}, value(state->direct->Read())},
                                          {{{"pool", "inner"}}, value(state->inner->Read())}};
    });
  }
  registry.AddCallback(
      metrics::Kind::kCounter, "qanat_http2_abuse",
      "HBONE tunnels that were ended because of what the peer did, by our end of it", [s = state_] {
        std::vector<metrics::Sample> out;
        for (size_t i = 1; i < hbone::kAbuseKinds; ++i) {
          const std::string kind(hbone::AbuseName(static_cast<hbone::Abuse>(i)));
          const auto get = [i](const auto& counts) {
            return static_cast<double>(counts[i].load(std::memory_order_relaxed));
          };
          out.push_back({{{"end", "server"}, {"kind", kind}}, get(s->inbound)});
          out.push_back({{{"end", "client"}, {"kind", kind}},
                         get(s->direct->abused) + get(s->inner->abused)});
        }
        return out;
      });
}

}  // namespace qanat::ztunnel
