// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/telemetry.h"

#include "common/base/log.h"
#include "common/metrics/traffic.h"

namespace qanat::waypoint {
namespace {

metrics::LabelNames HttpLabels() {
  metrics::LabelNames names = metrics::TrafficLabelNames();
  names.emplace_back("response_code");
  names.emplace_back("grpc_response_status");
  return names;
}

// "inbound-vip|80|http|backend.shop.svc.cluster.local": what a refused request was meant for.
std::string_view HostOfChain(std::string_view chain) {
  size_t bar = chain.rfind('|');
  return bar == std::string_view::npos ? std::string_view() : chain.substr(bar + 1);
}

metrics::LabelValues Values(const Record& r) {
  const Peer none;
  const Peer& p = r.peer ? *r.peer : none;
  const WorkloadLabels unknown;
  const WorkloadLabels& d = r.endpoint ? r.endpoint->labels : unknown;
  std::string host, name, ns;
  if (r.cluster && !r.cluster->service_host.empty()) {
    host = r.cluster->service_host;
    name = r.cluster->service_name;
    ns = r.cluster->service_namespace;
  } else {
    host = std::string(HostOfChain(r.chain));
    name = host.substr(0, host.find('.'));
    if (size_t dot = host.find('.'); dot != std::string::npos) {
      ns = host.substr(dot + 1, host.find('.', dot + 1) - dot - 1);
    }
  }
  const std::string& app = d.app.empty() ? d.canonical_name : d.app;
  const std::string& version = d.version.empty() ? d.canonical_revision : d.version;
  const std::string_view identity = r.endpoint ? r.endpoint->identity : std::string_view();
  const std::string flags = FlagsText(r.flags);
  metrics::Traffic traffic;
  traffic.reporter = "waypoint";
  traffic.source = {p.workload, p.canonical_name, p.canonical_revision, p.ns,
                    p.identity, p.canonical_name, p.canonical_revision, p.cluster};
  traffic.destination = {d.workload, d.canonical_name, d.canonical_revision, d.ns, identity, app,
                         version,    d.cluster};
  traffic.service = host;
  traffic.service_namespace = ns;
  traffic.service_name = name;
  traffic.request_protocol = !r.http ? "tcp" : r.grpc ? "grpc" : "http";
  traffic.response_flags = flags;
  traffic.connection_security_policy = p.identity.empty() ? "none" : "mutual_tls";
  return metrics::TrafficLabelValues(traffic);
}

std::vector<double> ByteBounds() {
  return {1, 8, 64, 512, 4096, 32768, 262144, 2097152, 16777216, 134217728, 1073741824};
}

}  // namespace

TelemetryFamilies::TelemetryFamilies(metrics::Registry& r)
    : requests(r.AddCounter("istio_requests", "Requests through this waypoint.", HttpLabels())),
      duration_ms(r.AddHistogram("istio_request_duration_milliseconds",
                                 "From the request's head to the response's end.",
                                 metrics::IstioMillisecondBounds(), HttpLabels())),
      request_bytes(r.AddHistogram("istio_request_bytes", "Bytes of request bodies.", ByteBounds(),
                                   HttpLabels())),
      response_bytes(r.AddHistogram("istio_response_bytes", "Bytes of response bodies.",
                                    ByteBounds(), HttpLabels())),
      tcp_opened(r.AddCounter("istio_tcp_connections_opened", "TCP connections begun.",
                              metrics::TrafficLabelNames())),
      tcp_closed(r.AddCounter("istio_tcp_connections_closed", "TCP connections ended.",
                              metrics::TrafficLabelNames())),
      tcp_sent(r.AddCounter("istio_tcp_sent_bytes", "Bytes sent to the client.",
                            metrics::TrafficLabelNames())),
      tcp_received(r.AddCounter("istio_tcp_received_bytes", "Bytes received from the client.",
                                metrics::TrafficLabelNames())),
      refusals(r.AddCounter("qanat_waypoint_refusals",
                            "Requests and connections refused or ended early, by reason.",
                            {"reason"})),
      bad_input(r.AddCounter("qanat_waypoint_bad_input",
                             "Connections ended because what came was not understood.", {"what"})),
      retries(r.AddCounter("qanat_waypoint_retries", "Further attempts of requests.")),
      tunnels(r.AddGauge("qanat_waypoint_tunnels", "Tunnels from clients that are open.")),
      active_requests(r.AddGauge("qanat_waypoint_active_requests", "Requests in flight.")),
      upstream_connections(r.AddCounter("qanat_waypoint_upstream_connections",
                                        "Connections to endpoints, by result.", {"result"})) {}

TelemetrySink::TelemetrySink(TelemetryFamilies& families, const ProxySettings& settings)
    : families_(families), settings_(settings) {}

TelemetrySink::HttpSeries& TelemetrySink::Series(const Record& r) {
  // Everything that the labels are made of, in short.
  key_.clear();
  auto add = [&](std::string_view text) { key_.append(text).push_back('\0'); };
  if (r.peer) {
    add(r.peer->identity);
    add(r.peer->workload);
    add(r.peer->canonical_name);
    add(r.peer->canonical_revision);
    add(r.peer->cluster);
  }
  add(r.chain);
  add(r.cluster ? std::string_view(r.cluster->service_host) : std::string_view());
  if (r.endpoint) {
    const WorkloadLabels& d = r.endpoint->labels;
    add(r.endpoint->identity);
    add(d.workload);
    add(d.ns);
    add(d.canonical_name);
    add(d.canonical_revision);
    add(d.cluster);
    add(d.app);
    add(d.version);
  }
  add(r.grpc_status);
  key_.push_back(static_cast<char>(r.grpc));
  key_.push_back(static_cast<char>(r.flags & 0xff));
  key_.push_back(static_cast<char>(r.flags >> 8));
  key_.push_back(static_cast<char>(r.status & 0xff));
  key_.push_back(static_cast<char>(r.status >> 8));
  auto it = http_.find(key_);
  if (it != http_.end()) return it->second;
  metrics::LabelValues values = Values(r);
  values.push_back(std::to_string(r.status));
  values.push_back(r.grpc ? r.grpc_status : "");
  HttpSeries series{families_.requests.With(values), families_.duration_ms.With(values),
                    families_.request_bytes.With(values), families_.response_bytes.With(values)};
  return http_.emplace(key_, std::move(series)).first->second;
}

void TelemetrySink::Log(const Record& record, event::TimePoint now) {
  auto duration = std::chrono::duration_cast<std::chrono::milliseconds>(now - record.started);
  log::WriteRaw(settings_.access_log_json ? FormatJson(record, duration)
                                          : FormatText(record, duration));
}

void TelemetrySink::Finished(Record& record, event::TimePoint now, bool access_log) {
  if (record.grpc && record.grpc_status.empty() && record.status != 200) record.grpc_status = "2";
  HttpSeries& series = Series(record);
  series.requests->Add();
  series.duration->Observe(std::chrono::duration<double, std::milli>(now - record.started).count());
  series.request_bytes->Observe(static_cast<double>(record.bytes_received));
  series.response_bytes->Observe(static_cast<double>(record.bytes_sent));
  if (record.reason != model::Reason::kNone) {
    families_.refusals.With({std::string(model::ToString(record.reason))})->Add();
  }
  if (access_log && settings_.access_log) Log(record, now);
}

TelemetrySink::TcpSeries TelemetrySink::Tcp(const Record& record) {
  metrics::LabelValues values = Values(record);
  return {families_.tcp_opened.With(values), families_.tcp_closed.With(values),
          families_.tcp_sent.With(values), families_.tcp_received.With(values)};
}

void TelemetrySink::TcpFinished(Record& record, event::TimePoint now, bool access_log) {
  if (record.reason != model::Reason::kNone) {
    families_.refusals.With({std::string(model::ToString(record.reason))})->Add();
  }
  if (access_log && settings_.access_log) Log(record, now);
}

void TelemetrySink::BadInput(std::string_view what) {
  families_.bad_input.With({std::string(what)})->Add();
}

}  // namespace qanat::waypoint
