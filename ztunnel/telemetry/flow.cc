// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/flow.h"

#include <fmt/format.h>

#include "common/metrics/traffic.h"

namespace qanat::ztunnel {
namespace {

metrics::TrafficEnd EndOf(const model::WorkloadPtr& workload, std::string_view principal) {
  if (!workload) return {.principal = principal};
  const model::Workload& w = *workload;
  return {w.workload_name, w.canonical_name, w.canonical_revision, w.ns,
          principal,       w.canonical_name, w.canonical_revision, w.cluster_id};
}

std::string PrincipalOf(const std::optional<model::Identity>& identity) {
  return identity ? identity->ToString() : "";
}

class Line {
 public:
  explicit Line(log::Format format) : format_(format) {}

  void Field(std::string_view key, const std::string& value, bool quote = true) {
    if (value.empty()) return;
    if (format_ == log::Format::kJson) {
      out_ += fmt::format(",\"{}\":{}", key, quote ? log::JsonQuote(value) : value);
      return;
    }
    out_ += out_.empty() || out_.back() == '\t' ? "" : " ";
    out_ += fmt::format("{}={}", key, quote ? log::JsonQuote(value) : value);
  }
  // Addresses have no quotes in the text form.
  void Address(std::string_view key, const net::SocketAddress& address) {
    if (!address.is_set()) return;
    Field(key, address.ToString(), format_ == log::Format::kJson);
  }
  void Number(std::string_view key, uint64_t value) { Field(key, std::to_string(value), false); }
  std::string out_;

 private:
  log::Format format_;
};

void AddEndFields(Line& line, std::string_view end, const model::WorkloadPtr& workload,
                  const std::optional<model::Identity>& identity) {
  const auto key = [&](std::string_view name) { return fmt::format("{}.{}", end, name); };
  if (workload) {
    line.Field(key("workload"), workload->name);
    line.Field(key("namespace"), workload->ns);
  }
  if (identity) line.Field(key("identity"), identity->ToString());
  if (workload) line.Field(key("cluster"), workload->cluster_id);
}

}  // namespace

const metrics::LabelNames& FlowLabelNames() {
  static const metrics::LabelNames names = [] {
    metrics::LabelNames out = metrics::TrafficLabelNames();
    for (const char* name :
         {"source_region", "source_zone", "destination_region", "destination_zone"}) {
      out.emplace_back(name);
    }
    return out;
  }();
  return names;
}

metrics::LabelValues FlowLabels(const Flow& flow, model::Reason reason) {
  const std::string source = PrincipalOf(flow.source_identity);
  const std::string destination = PrincipalOf(flow.destination_identity);
  metrics::Traffic traffic;
  traffic.reporter = flow.reporter == Reporter::kSource ? "source" : "destination";
  traffic.source = EndOf(flow.source_workload, source);
  traffic.destination = EndOf(flow.destination_workload, destination);
  if (flow.service) {
    traffic.service = flow.service->hostname;
    traffic.service_namespace = flow.service->ns;
    traffic.service_name = flow.service->name;
  }
  traffic.request_protocol = "tcp";
  traffic.response_flags = ResponseFlag(reason);
  traffic.connection_security_policy = flow.mutual_tls ? "mutual_tls" : "unknown";
  metrics::LabelValues out = metrics::TrafficLabelValues(traffic);
  for (const auto& workload : {flow.source_workload, flow.destination_workload}) {
    out.push_back(workload ? workload->locality.region : "");
    out.push_back(workload ? workload->locality.zone : "");
  }
  return out;
}

std::string AccessLine(const Flow& flow, const FlowEnd& end, log::Format format,
                       const std::string& timestamp) {
  const bool failed = end.reason != model::Reason::kNone;
  const std::string_view level = !end.opened ? "warn" : failed ? "error" : "info";
  const std::string_view message = end.opened ? "connection complete" : "connection failed";
  const bool inbound = flow.reporter == Reporter::kDestination;
  Line line(format);
  if (format == log::Format::kJson) {
    line.out_ = fmt::format(
        "{{\"level\":\"{}\",\"time\":\"{}\",\"scope\":\"access\","
        "\"message\":\"{}\"",
        level, timestamp, message);
  } else {
    line.out_ = fmt::format("{}\t{}\taccess\t{}\t", timestamp, level, message);
  }
  line.Address("src.addr", flow.source);
  AddEndFields(line, "src", flow.source_workload, flow.source_identity);
  line.Address("dst.addr", flow.destination);
  if (flow.tunnelled) line.Address("dst.hbone_addr", flow.target);
  if (flow.service) line.Field("dst.service", flow.service->hostname);
  AddEndFields(line, "dst", flow.destination_workload, flow.destination_identity);
  line.Field("direction", inbound ? "inbound" : "outbound");
  // Seen from this proxy's side of the tunnel (stock ztunnel): outbound sends what the client
  // sends, inbound sends what the server answers.
  line.Number("bytes_sent", inbound ? end.bytes_down : end.bytes_up);
  line.Number("bytes_recv", inbound ? end.bytes_up : end.bytes_down);
  line.Field("duration", fmt::format("{}ms", end.duration.count()));
  if (failed) {
    line.Field("error", end.error.empty() ? std::string(Explanation(end.reason)) : end.error);
    line.Field("reason", std::string(ToString(end.reason)));
  }
  if (format == log::Format::kJson) line.out_.push_back('}');
  return std::move(line.out_);
}

}  // namespace qanat::ztunnel
