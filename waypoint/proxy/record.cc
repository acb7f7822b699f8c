// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/record.h"

#include <fmt/format.h>

#include <ctime>
#include <iterator>

#include "common/base/log.h"

namespace qanat::waypoint {
namespace {

struct FlagName {
  Flag flag;
  std::string_view name;
};

constexpr FlagName kFlags[] = {
    {Flag::kNoHealthyUpstream, "UH"},
    {Flag::kUpstreamConnectionFailure, "UF"},
    {Flag::kUpstreamOverflow, "UO"},
    {Flag::kNoRoute, "NR"},
    {Flag::kRetryLimitExceeded, "URX"},
    {Flag::kNoCluster, "NC"},
    {Flag::kUpstreamTimeout, "UT"},
    {Flag::kUpstreamTermination, "UC"},
    {Flag::kUpstreamReset, "UR"},
    {Flag::kDownstreamTermination, "DC"},
    {Flag::kDownstreamProtocolError, "DPE"},
    {Flag::kUpstreamProtocolError, "UPE"},
    {Flag::kStreamIdleTimeout, "SI"},
    {Flag::kFaultInjected, "FI"},
    {Flag::kDelayInjected, "DI"},
    {Flag::kDurationTimeout, "DT"},
};

std::string StartTime(std::chrono::system_clock::time_point t) {
  auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(t.time_since_epoch()).count();
  std::time_t seconds = static_cast<std::time_t>(ms / 1000);
  std::tm tm{};
  gmtime_r(&seconds, &tm);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", tm.tm_year + 1900, tm.tm_mon + 1,
                     tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, ms % 1000);
}

// What a client sent must not be able to end a field or a line.
std::string Clean(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '"' || c == '\\') {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out.push_back(c);
    }
  }
  return out.empty() ? "-" : out;
}

std::string Plain(std::string_view text) { return text.empty() ? "-" : std::string(text); }
std::string Address(const net::SocketAddress& a) { return a.is_set() ? a.ToString() : "-"; }

std::string UpstreamHost(const Record& r) {
  if (r.endpoint == nullptr) return "-";
  // Envoy names the tunnel's listener; people search their logs for it.
  return (r.endpoint->hbone ? "envoy://connect_originate/" : "") + r.endpoint->address.ToString();
}

std::string ServiceTime(const Record& r) {
  return r.upstream_service_ms < 0 ? "-" : std::to_string(r.upstream_service_ms);
}

}  // namespace

std::string FlagsText(uint16_t flags) {
  std::string out;
  for (const FlagName& f : kFlags) {
    if ((flags & static_cast<uint16_t>(f.flag)) == 0) continue;
    if (!out.empty()) out.push_back(',');
    out.append(f.name);
  }
  return out.empty() ? "-" : out;
}

std::string FormatText(const Record& r, std::chrono::milliseconds duration) {
  return fmt::format(
      "[{}] \"{} {} {}\" {} {} {} - \"{}\" {} {} {} {} \"{}\" \"{}\" \"{}\" \"{}\" \"{}\" {} {} {} "
      "{} - {}",
      StartTime(r.start), Clean(r.method), Clean(r.path), Plain(r.protocol), r.status,
      FlagsText(r.flags), Plain(r.details), Clean(r.upstream_failure), r.bytes_received,
      r.bytes_sent, duration.count(), ServiceTime(r), Clean(r.xff), Clean(r.user_agent),
      Clean(r.request_id), Clean(r.authority), UpstreamHost(r), r.cluster ? r.cluster->name : "-",
      "-", Address(r.destination), r.peer ? Address(r.peer->address) : "-", Plain(r.route_name));
}

std::string FormatJson(const Record& r, std::chrono::milliseconds duration) {
  std::string out = "{";
  auto text = [&](std::string_view key, std::string_view value) {
    if (out.size() > 1) out.push_back(',');
    fmt::format_to(std::back_inserter(out), "\"{}\":", key);
    out.append(value.empty() || value == "-" ? "null" : log::JsonQuote(value));
  };
  auto number = [&](std::string_view key, int64_t value) {
    if (out.size() > 1) out.push_back(',');
    fmt::format_to(std::back_inserter(out), "\"{}\":{}", key, value);
  };
  text("start_time", StartTime(r.start));
  text("method", r.method);
  text("path", r.path);
  text("protocol", r.protocol);
  number("response_code", r.status);
  text("response_flags", FlagsText(r.flags));
  text("response_code_details", r.details);
  text("connection_termination_details", "");
  text("upstream_transport_failure_reason", r.upstream_failure);
  number("bytes_received", static_cast<int64_t>(r.bytes_received));
  number("bytes_sent", static_cast<int64_t>(r.bytes_sent));
  number("duration", duration.count());
  text("upstream_service_time", ServiceTime(r));
  text("x_forwarded_for", r.xff);
  text("user_agent", r.user_agent);
  text("request_id", r.request_id);
  text("authority", r.authority);
  text("upstream_host", UpstreamHost(r));
  text("upstream_cluster", r.cluster ? r.cluster->name : "");
  text("upstream_local_address", "");
  text("downstream_local_address", Address(r.destination));
  text("downstream_remote_address", r.peer ? Address(r.peer->address) : "");
  text("requested_server_name", "");
  text("route_name", r.route_name);
  // Beyond Istio's fields: who called, and the reason that metrics and `why` use.
  text("source_principal", r.peer ? r.peer->principal() : "");
  text("reason", r.reason == model::Reason::kNone ? "" : model::ToString(r.reason));
  number("attempts", r.attempts);
  out.push_back('}');
  return out;
}

}  // namespace qanat::waypoint
