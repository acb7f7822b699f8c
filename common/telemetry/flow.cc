// SPDX-License-Identifier: Apache-2.0
#include "common/telemetry/flow.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <initializer_list>

#include "common/metrics/traffic.h"

namespace qanat::telemetry {
namespace {

metrics::TrafficEnd EndOf(const model::WorkloadPtr& workload, std::string_view principal) {
  if (!workload) return {.principal = principal};
  const model::Workload& w = *workload;
  return {w.workload_name, w.canonical_name, w.canonical_revision, w.ns,
          principal,       w.canonical_name, w.canonical_revision, w.cluster_id};
}

std::string PrincipalOf(const SharedIdentity& identity) {
  return identity ? identity->ToString() : "";
}

// Every connection has one: written piece by piece into one string.
class Line {
 public:
  explicit Line(log::Format format) : format_(format) { out_.reserve(640); }

  // Parts of a text: what they make together is the field's value.
  using Parts = std::initializer_list<std::string_view>;

  void Raw(std::string_view text) { out_.append(text); }
  void Field(Parts key, Parts value, bool quote = true) {
    Key(key);
    if (quote) out_.push_back('"');
    for (const std::string_view part : value) {
      if (quote) {
        Escape(part);
      } else {
        Raw(part);
      }
    }
    if (quote) out_.push_back('"');
  }
  // The ones that are absent are left out.
  void Text(Parts key, std::string_view value) {
    if (!value.empty()) Field(key, {value});
  }
  // Addresses have no quotes in the text form.
  void Address(std::string_view key, const net::SocketAddress& address) {
    if (!address.is_set()) return;
    const std::string text = address.ToString();
    Field({key}, {text}, format_ == log::Format::kJson);
  }
  void Number(std::string_view key, uint64_t value) { Field({key}, {Decimal(value)}, false); }
  // Good until the next call.
  std::string_view Decimal(uint64_t value) {
    return {digits_.data(), std::to_chars(digits_.begin(), digits_.end(), value).ptr};
  }
  std::string Finish() && {
    if (format_ == log::Format::kJson) out_.push_back('}');
    return std::move(out_);
  }

 private:
  void Key(Parts key) {
    const bool json = format_ == log::Format::kJson;
    if (json) {
      Raw(",\"");
    } else if (!out_.empty() && out_.back() != '\t') {
      out_.push_back(' ');
    }
    for (const std::string_view part : key) Raw(part);
    Raw(json ? "\":" : "=");
  }
  // Nearly no text has anything to be escaped.
  void Escape(std::string_view text) {
    const bool plain = std::all_of(text.begin(), text.end(), [](unsigned char c) {
      return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
    });
    if (plain) return Raw(text);
    const std::string quoted = log::JsonQuote(text);
    Raw(std::string_view(quoted).substr(1, quoted.size() - 2));
  }

  std::string out_;
  log::Format format_;
  std::array<char, 20> digits_;
};

void AddEndFields(Line& line, std::string_view end, const model::WorkloadPtr& workload,
                  const SharedIdentity& identity) {
  if (workload) {
    line.Text({end, ".workload"}, workload->name());
    line.Text({end, ".namespace"}, workload->ns);
  }
  if (identity) {
    line.Field({end, ".identity"},
               {"spiffe://", identity->trust_domain, "/ns/", identity->ns, "/sa/", identity->sa});
  }
  if (workload) line.Text({end, ".cluster"}, workload->cluster_id);
}

Line Begin(const Flow& flow, std::string_view level, std::string_view message, log::Format format,
           std::string_view timestamp) {
  Line line(format);
  const auto raw = [&line](Line::Parts parts) {
    for (const std::string_view part : parts) line.Raw(part);
  };
  if (format == log::Format::kJson) {
    raw({"{\"level\":\"", level, "\",\"time\":\"", timestamp,
         "\",\"scope\":\"access\",\"message\":\"", message, "\""});
  } else {
    raw({timestamp, "\t", level, "\taccess\t", message, "\t"});
  }
  line.Address("src.addr", flow.source);
  AddEndFields(line, "src", flow.source_workload, flow.source_identity);
  line.Address("dst.addr", flow.destination);
  if (flow.tunnelled) line.Address("dst.hbone_addr", flow.target);
  if (flow.service) line.Text({"dst.service"}, flow.service->hostname);
  AddEndFields(line, "dst", flow.destination_workload, flow.destination_identity);
  line.Text({"direction"}, flow.reporter == Reporter::kDestination ? "inbound" : "outbound");
  return line;
}

std::string_view NameOf(log::Level level) {
  switch (level) {
    case log::Level::kTrace: return "trace";
    case log::Level::kDebug: return "debug";
    case log::Level::kInfo:
    case log::Level::kOff: return "info";
    case log::Level::kWarn: return "warn";
    case log::Level::kError: return "error";
  }
  return "";
}

}  // namespace

bool IsEarly(model::Reason reason) {
  using model::Reason;
  switch (reason) {
    case Reason::kSourceUnknown:
    case Reason::kAddressMismatch:
    case Reason::kDestinationUnknown:
    case Reason::kDestinationMismatch:
    case Reason::kSourceUnproven:
    case Reason::kSelfCall:
    case Reason::kNoHealthyUpstream:
    case Reason::kNoSuchPort:
    case Reason::kNoNetworkGateway:
    case Reason::kWaypointUnavailable:
    case Reason::kUnsupported:
    case Reason::kBadRequest: return true;
    default: return false;
  }
}

log::Level LevelOf(const FlowEnd& end) {
  if (end.reason == model::Reason::kSourceUnproven) return log::Level::kDebug;
  if (end.early) return log::Level::kWarn;
  return end.reason == model::Reason::kNone ? log::Level::kInfo : log::Level::kError;
}

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

std::string OpenedLine(const Flow& flow, log::Format format, const std::string& timestamp) {
  return Begin(flow, "debug", "connection opened", format, timestamp).Finish();
}

std::string AccessLine(const Flow& flow, const FlowEnd& end, log::Format format,
                       const std::string& timestamp) {
  const bool failed = end.reason != model::Reason::kNone;
  const bool inbound = flow.reporter == Reporter::kDestination;
  Line line = Begin(flow, NameOf(LevelOf(end)),
                    end.early ? "connection failed" : "connection complete", format, timestamp);
  // Seen from this proxy's side of the tunnel (stock ztunnel): outbound sends what the client
  // sends, inbound sends what the server answers.
  line.Number("bytes_sent", inbound ? end.bytes_down : end.bytes_up);
  line.Number("bytes_recv", inbound ? end.bytes_up : end.bytes_down);
  const auto elapsed = static_cast<uint64_t>(std::max<int64_t>(end.duration.count(), 0));
  line.Field({"duration"}, {line.Decimal(elapsed), "ms"});
  if (failed) {
    line.Text({"error"}, end.error.empty() ? Explanation(end.reason) : std::string_view(end.error));
    line.Text({"reason"}, ToString(end.reason));
  }
  if (flow.tries > 1) line.Number("tries", flow.tries);
  line.Address("src.tunnel", flow.tunnel);
  return std::move(line).Finish();
}

}  // namespace qanat::telemetry
