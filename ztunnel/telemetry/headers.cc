// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/headers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <initializer_list>

namespace qanat::ztunnel {
namespace {

constexpr size_t kMaxMembers = 64;  // W3C: at most 64 list members

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

template <typename Visit>
void ForEachPart(std::string_view text, char separator, Visit visit) {
  for (size_t n = 0; n < kMaxMembers && !text.empty(); ++n) {
    const size_t end = text.find(separator);
    visit(Trim(text.substr(0, end)));
    if (end == std::string_view::npos) return;
    text.remove_prefix(end + 1);
  }
}

}  // namespace

std::string MakeBaggage(const model::Workload& workload) {
  std::string out;
  out.reserve(256);
  const auto add = [&out](std::initializer_list<std::string_view> key, std::string_view value) {
    if (value.empty()) return;
    if (!out.empty()) out.push_back(',');
    for (const std::string_view part : key) out.append(part);
    out.append("=").append(value);
  };
  add({"k8s.cluster.name"}, workload.cluster_id);
  add({"k8s.namespace.name"}, workload.ns);
  add({"k8s.", ToString(workload.type), ".name"}, workload.workload_name);
  add({"service.name"}, workload.canonical_name);
  add({"service.version"}, workload.canonical_revision);
  add({"cloud.region"}, workload.locality.region);
  add({"cloud.availability_zone"}, workload.locality.zone);
  return out;
}

Baggage ParseBaggage(std::string_view header) {
  Baggage out;
  ForEachPart(header, ',', [&out](std::string_view member) {
    const size_t equals = member.find('=');
    if (equals == std::string_view::npos) return;
    const std::string_view key = Trim(member.substr(0, equals));
    std::string_view value = member.substr(equals + 1);
    value = Trim(value.substr(0, value.find(';')));  // properties are not ours
    if (value.size() > kMaxBaggageValue) return;
    if (key == "k8s.cluster.name") out.cluster = value;
    if (key == "k8s.namespace.name") out.ns = value;
    if (key == "service.name") out.service = value;
    if (key == "service.version") out.version = value;
    if (key == "cloud.region") out.region = value;
    if (key == "cloud.availability_zone") out.zone = value;
    for (const std::string_view type : {"deployment", "cronjob", "pod", "job"}) {
      if (key == fmt::format("k8s.{}.name", type)) {
        out.workload = value;
        out.workload_type = type;
      }
    }
  });
  return out;
}

std::string MakeForwarded(const net::SocketAddress& source, std::string_view service_host) {
  std::string out;
  out.reserve(64 + service_host.size());
  out.append("for=\"").append(source.ToString()).append("\"");
  if (!service_host.empty()) out.append(";host=").append(service_host);
  return out;
}

std::string ForwardedHost(std::string_view header) {
  std::string host;
  ForEachPart(header, ';', [&host](std::string_view part) {
    if (!part.starts_with("host=")) return;
    part.remove_prefix(5);
    if (part.size() >= 2 && part.front() == '"' && part.back() == '"') {
      part = part.substr(1, part.size() - 2);
    }
    if (part.size() <= 253) host = part;
  });
  return host;
}

std::string MakeTraceparent(uint64_t high, uint64_t low, uint64_t span) {
  std::string out = "00-00000000000000000000000000000000-0000000000000000-00";
  const auto put = [&out](size_t end, uint64_t number) {
    for (; number != 0; number >>= 4) out[--end] = "0123456789abcdef"[number & 15];
  };
  put(19, high);
  put(35, low);
  put(52, span);
  return out;
}

std::string TraceId(std::string_view traceparent) {
  constexpr size_t kLength = 55;
  if (traceparent.size() != kLength || traceparent[2] != '-' || traceparent[35] != '-') return {};
  const std::string_view id = traceparent.substr(3, 32);
  const bool hex =
      std::all_of(id.begin(), id.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
  return hex ? std::string(id) : std::string();
}

}  // namespace qanat::ztunnel
