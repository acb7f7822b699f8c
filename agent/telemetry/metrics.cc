// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/labels.h"
#include "agent/telemetry/telemetry.h"

namespace qanat::agent::telemetry {
namespace {

double Seconds(uint64_t microseconds) { return static_cast<double>(microseconds) / 1e6; }

}  // namespace

void AddMetrics(metrics::Registry& registry, const Telemetry& telemetry) {
  using metrics::Kind;
  using metrics::Sample;
  const auto one = [&](Kind kind, const char* name, const char* help, auto value) {
    registry.AddCallback(kind, name, help, [value]() -> std::vector<Sample> {
      return {{{}, static_cast<double>(value())}};
    });
  };
  const Telemetry* t = &telemetry;
  one(Kind::kCounter, "qanat_tcp_records", "Records of applications' connections that were read",
      [t] { return t->records(); });
  one(Kind::kCounter, "qanat_tcp_records_lost",
      "Records that were lost because the agent did not read in time: the figures lack them",
      [t] { return t->lost(); });
  one(Kind::kGauge, "qanat_tcp_series", "Pairs of identities, by path and end, that are kept apart",
      [t] { return t->table().size(); });
  one(Kind::kCounter, "qanat_tcp_series_overflow",
      "Pairs that are counted under \"other\", because there were too many",
      [t] { return t->table().overflow(); });

  const auto labels_of = [](const SeriesKey& key) {
    metrics::Labels labels;
    const metrics::LabelValues values = ValuesOf(key);
    size_t i = 0;
    for (const std::string& name : Names()) labels.emplace_back(name, values[i++]);
    return labels;
  };
  registry.AddCallback(Kind::kCounter, "qanat_tcp_connections",
                       "Connections of applications that have ended, by who ended them and how",
                       [t, labels_of] {
                         std::vector<Sample> samples;
                         for (const auto& [key, series] : t->table().all()) {
                           for (int i = 0; i < kEndings; ++i) {
                             const uint64_t count = series.endings[static_cast<size_t>(i)];
                             if (count == 0) continue;
                             metrics::Labels labels = labels_of(key);
                             labels.emplace_back("ended_by", ToString(static_cast<Ending>(i)));
                             samples.push_back({std::move(labels), static_cast<double>(count)});
                           }
                         }
                         return samples;
                       });
  const auto each = [&](const char* name, const char* help, auto value) {
    registry.AddCallback(Kind::kCounter, name, help, [t, labels_of, value] {
      std::vector<Sample> samples;
      for (const auto& [key, series] : t->table().all())
        samples.push_back({labels_of(key), value(series)});
      return samples;
    });
  };
  const auto number = [](uint64_t Series::* field) {
    return [field](const Series& series) { return static_cast<double>(series.*field); };
  };
  const auto seconds = [](uint64_t Series::* field) {
    return [field](const Series& series) { return Seconds(series.*field); };
  };
  each("qanat_tcp_sent_bytes", "Payload that this end sent", number(&Series::bytes_sent));
  each("qanat_tcp_received_bytes", "Payload that this end received",
       number(&Series::bytes_received));
  each("qanat_tcp_sent_segments", "Segments with payload that this end sent",
       number(&Series::segments_out));
  each("qanat_tcp_retransmits", "Segments that this end sent again",
       number(&Series::retransmitted));
  each("qanat_tcp_out_of_order_segments", "Segments that came to this end out of order",
       number(&Series::out_of_order));
  each("qanat_tcp_reordering", "Times that this end saw its segments overtake one another",
       number(&Series::reordered));
  each("qanat_tcp_busy_seconds", "Time with something sent and not acknowledged",
       seconds(&Series::busy_us));
  each("qanat_tcp_window_limited_seconds",
       "Time that this end waited because the other one did not read", seconds(&Series::window_us));
}

}  // namespace qanat::agent::telemetry
