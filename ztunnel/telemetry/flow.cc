// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/flow.h"

#include <fmt/format.h>

#include <array>

namespace qanat::ztunnel {
namespace {

std::string OrUnknown(std::string_view text) {
  return std::string(text.empty() ? std::string_view("unknown") : text);
}

std::string PrincipalOf(const std::optional<model::Identity>& identity) {
  return identity ? identity->ToString() : "unknown";
}

void AddEnd(metrics::LabelValues& out, const model::WorkloadPtr& workload,
            const std::optional<model::Identity>& identity, bool with_app) {
  const auto field = [&](auto member) {
    return workload ? OrUnknown((*workload).*member) : std::string("unknown");
  };
  out.push_back(field(&model::Workload::workload_name));
  out.push_back(field(&model::Workload::canonical_name));
  out.push_back(field(&model::Workload::canonical_revision));
  out.push_back(field(&model::Workload::ns));
  out.push_back(PrincipalOf(identity));
  if (with_app) {
    out.push_back(field(&model::Workload::canonical_name));      // app
    out.push_back(field(&model::Workload::canonical_revision));  // version
    out.push_back(field(&model::Workload::cluster_id));
  }
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

const metrics::LabelNames& TrafficLabelNames() {
  static const metrics::LabelNames names = {"reporter",
                                            "source_workload",
                                            "source_canonical_service",
                                            "source_canonical_revision",
                                            "source_workload_namespace",
                                            "source_principal",
                                            "source_app",
                                            "source_version",
                                            "source_cluster",
                                            "destination_service",
                                            "destination_service_namespace",
                                            "destination_service_name",
                                            "destination_workload",
                                            "destination_canonical_service",
                                            "destination_canonical_revision",
                                            "destination_workload_namespace",
                                            "destination_principal",
                                            "destination_app",
                                            "destination_version",
                                            "destination_cluster",
                                            "request_protocol",
                                            "response_flags",
                                            "connection_security_policy",
                                            "source_region",
                                            "source_zone",
                                            "destination_region",
                                            "destination_zone"};
  return names;
}

metrics::LabelValues TrafficLabels(const Flow& flow, model::Reason reason) {
  metrics::LabelValues out;
  out.reserve(TrafficLabelNames().size());
  out.emplace_back(flow.reporter == Reporter::kSource ? "source" : "destination");
  AddEnd(out, flow.source_workload, flow.source_identity, true);
  out.push_back(flow.service ? OrUnknown(flow.service->hostname) : "unknown");
  out.push_back(flow.service ? OrUnknown(flow.service->ns) : "unknown");
  out.push_back(flow.service ? OrUnknown(flow.service->name) : "unknown");
  AddEnd(out, flow.destination_workload, flow.destination_identity, true);
  out.emplace_back("tcp");
  out.emplace_back(ResponseFlag(reason));
  out.emplace_back(flow.mutual_tls ? "mutual_tls" : "unknown");
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
