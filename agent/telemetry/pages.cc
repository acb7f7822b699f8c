// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "agent/telemetry/telemetry.h"

namespace qanat::agent::telemetry {
namespace {

using Json = nlohmann::json;

admin::Response Dump(const Json& json) {
  return admin::Json(200, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

Json HistogramJson(const LogHistogram& histogram) {
  return {{"count", histogram.count()},
          {"p50", histogram.Quantile(0.5)},
          {"p90", histogram.Quantile(0.9)},
          {"p99", histogram.Quantile(0.99)},
          {"log2", histogram.counts()}};
}

Json SeriesJson(const SeriesKey& key, const Series& series) {
  Json endings = Json::object();
  for (int i = 0; i < kEndings; ++i)
    if (const uint64_t count = series.endings[static_cast<size_t>(i)]; count != 0)
      endings[std::string(ToString(static_cast<Ending>(i)))] = count;
  return {{"source", key.source},
          {"destination", key.destination},
          {"service", key.service},
          {"path", ToString(key.path)},
          {"reporter", key.server ? "destination" : "source"},
          {"connections", series.connections},
          {"established", series.established},
          {"endedBy", std::move(endings)},
          {"bytesSent", series.bytes_sent},
          {"bytesReceived", series.bytes_received},
          {"segmentsSent", series.segments_out},
          {"segmentsReceived", series.segments_in},
          {"retransmits", series.retransmitted},
          {"outOfOrder", series.out_of_order},
          {"reordered", series.reordered},
          {"durationUs", series.duration_us},
          {"connectUs", series.connect_us},
          {"responseUs", series.response_us},
          {"busyUs", series.busy_us},
          {"windowLimitedUs", series.window_us},
          {"bufferLimitedUs", series.buffer_us},
          {"histograms",
           {{"connectUs", HistogramJson(series.connect)},
            {"srttUs", HistogramJson(series.srtt)},
            {"minRttUs", HistogramJson(series.min_rtt)},
            {"responseUs", HistogramJson(series.response)},
            {"retransmitsPermille", HistogramJson(series.retransmits)},
            {"windowLimitedPermille", HistogramJson(series.window)},
            {"bytesPerSecond", HistogramJson(series.rate)}}}};
}

Json HealthJson(const Telemetry& telemetry) {
  Json list = Json::array();
  for (const auto& [key, series] : telemetry.table().all()) list.push_back(SeriesJson(key, series));
  return {{"records", telemetry.records()},
          {"recordsLost", telemetry.lost()},
          {"overflow", telemetry.table().overflow()},
          {"series", std::move(list)}};
}

Json LiveJson(const LiveDirect& live) {
  const qanat::telemetry::Flow& flow = live.flow;
  const auto uid = [](const model::WorkloadPtr& workload) {
    return workload ? std::string(std::string_view(workload->uid)) : std::string();
  };
  const auto identity = [](const qanat::telemetry::SharedIdentity& end) {
    return end ? end->ToString() : std::string();
  };
  return {{"src", flow.source.ToString()},
          {"originalDst", flow.destination.ToString()},
          {"actualDst", flow.target.ToString()},
          {"protocol", "TCP"},
          {"direction", "outbound"},
          {"path", "direct"},
          {"podUid", live.pod_uid},
          {"srcWorkload", uid(flow.source_workload)},
          {"dstWorkload", uid(flow.destination_workload)},
          {"srcIdentity", identity(flow.source_identity)},
          {"dstIdentity", identity(flow.destination_identity)},
          {"dstService", flow.service ? flow.service->hostname : ""},
          {"bytesUp", live.bytes_up},
          {"bytesDown", live.bytes_down}};
}

}  // namespace

void AddRoutes(admin::Server& server, Telemetry& telemetry) {
  server.Route("GET", "/debug/health",
               [&telemetry](const admin::Request&) { return Dump(HealthJson(telemetry)); });
  server.Route("GET", "/debug/connections", [&telemetry](const admin::Request&) {
    Json list = Json::array();
    for (const LiveDirect& live : telemetry.Live()) list.push_back(LiveJson(live));
    return Dump(list);
  });
}

}  // namespace qanat::agent::telemetry
