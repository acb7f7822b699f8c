// SPDX-License-Identifier: Apache-2.0
// Istio's metrics at a waypoint (reporter "waypoint") and the access log. Families are shared and
// thread safe; each worker has a TelemetrySink that remembers the series it uses.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "common/metrics/registry.h"
#include "waypoint/proxy/record.h"
#include "waypoint/proxy/settings.h"

namespace qanat::waypoint {

struct TelemetryFamilies {
  explicit TelemetryFamilies(metrics::Registry& registry);
  metrics::Family<metrics::Counter>& requests;
  metrics::Family<metrics::Histogram>& duration_ms;
  metrics::Family<metrics::Histogram>& request_bytes;
  metrics::Family<metrics::Histogram>& response_bytes;
  metrics::Family<metrics::Counter>& tcp_opened;
  metrics::Family<metrics::Counter>& tcp_closed;
  metrics::Family<metrics::Counter>& tcp_sent;
  metrics::Family<metrics::Counter>& tcp_received;
  // Of our own.
  metrics::Family<metrics::Counter>& refusals;   // reason
  metrics::Family<metrics::Counter>& bad_input;  // what
  metrics::Family<metrics::Counter>& retries;    // result
  metrics::Family<metrics::Gauge>& tunnels;
  metrics::Family<metrics::Gauge>& active_requests;
  metrics::Family<metrics::Counter>& upstream_connections;  // result
};

class TelemetrySink {
 public:
  TelemetrySink(TelemetryFamilies& families, const ProxySettings& settings);

  // Logs and counts one finished request.
  void Finished(Record& record, event::TimePoint now, bool access_log);
  // A TCP connection through the proxy.
  struct TcpSeries {
    std::shared_ptr<metrics::Counter> opened, closed, sent, received;
  };
  TcpSeries Tcp(const Record& record);
  void TcpFinished(Record& record, event::TimePoint now, bool access_log);
  void BadInput(std::string_view what);

  TelemetryFamilies& families() { return families_; }

 private:
  struct HttpSeries {
    std::shared_ptr<metrics::Counter> requests;
    std::shared_ptr<metrics::Histogram> duration, request_bytes, response_bytes;
  };
  HttpSeries& Series(const Record& record);
  void Log(const Record& record, event::TimePoint now);

  TelemetryFamilies& families_;
  const ProxySettings& settings_;
  std::unordered_map<std::string, HttpSeries> http_;
  std::string key_;
};

}  // namespace qanat::waypoint
