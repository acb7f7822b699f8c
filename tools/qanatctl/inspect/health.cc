// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/inspect/health.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "tools/qanatctl/inspect/metrics.h"
#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {

// "spiffe://cluster.local/ns/shop/sa/frontend", or without the trust domain where it is not known.
bool Is(const std::string& principal, const std::string& wanted) {
  return !wanted.empty() && (principal == wanted || principal.ends_with("/" + wanted));
}

uint64_t Number(const Json& json, const char* key) {
  return static_cast<uint64_t>(std::max<int64_t>(0, Int(json, key)));
}

void Add(metrics::LogHistogram& to, const Json& series, const char* name) {
  const Json& buckets = Get(Get(Get(series, "histograms"), name), "log2");
  if (!buckets.is_array()) return;
  size_t at = 0;
  for (const Json& count : buckets) {
    if (count.is_number_unsigned()) to.AddBucket(at, count.get<uint32_t>());
    ++at;
  }
}

void Add(HealthEnd& end, const Json& series) {
  end.connections += Number(series, "connections");
  end.established += Number(series, "established");
  const Json& ended = Get(series, "endedBy");
  for (const char* how : {"refused", "timeout", "reset_by_client", "reset_by_server"})
    end.failed += Number(ended, how);
  end.segments += Number(series, "segmentsSent");
  end.retransmits += Number(series, "retransmits");
  end.out_of_order += Number(series, "outOfOrder");
  end.connect_us += Number(series, "connectUs");
  end.response_us += Number(series, "responseUs");
  end.busy_us += Number(series, "busyUs");
  end.window_us += Number(series, "windowLimitedUs");
  end.buffer_us += Number(series, "bufferLimitedUs");
  Add(end.connect, series, "connectUs");
  Add(end.srtt, series, "srttUs");
  Add(end.response, series, "responseUs");
}

double Of(uint64_t sum, const HealthEnd& end) {
  return end.established == 0 ? 0 : static_cast<double>(sum) / static_cast<double>(end.established);
}

// Something was on its way and neither the peer's window nor the own buffer held it up.
double OnTheWay(const HealthEnd& end) {
  const uint64_t held = end.window_us + end.buffer_us;
  return Of(end.busy_us > held ? end.busy_us - held : 0, end);
}

std::string Time(double us) {
  if (us < 1000) return fmt::format("{:.0f} us", us);
  if (us < 1000000) return fmt::format("{:.1f} ms", us / 1000);
  return fmt::format("{:.2f} s", us / 1000000);
}

double Permille(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : 1000.0 * static_cast<double>(part) / static_cast<double>(whole);
}

Json EndJson(const HealthEnd& end) {
  return {{"connections", end.connections},
          {"failed", end.failed},
          {"segments", end.segments},
          {"retransmits", end.retransmits},
          {"outOfOrder", end.out_of_order},
          {"connectP50Us", end.connect.Quantile(0.5)},
          {"connectP99Us", end.connect.Quantile(0.99)},
          {"srttP50Us", end.srtt.Quantile(0.5)},
          {"srttP99Us", end.srtt.Quantile(0.99)},
          {"responseP50Us", end.response.Quantile(0.5)},
          {"responseP99Us", end.response.Quantile(0.99)},
          {"windowLimitedUs", Of(end.window_us, end)}};
}

}  // namespace

HealthReport JudgeHealth(const HealthPair& pair, const std::vector<Json>& agents, double proxy_us) {
  HealthReport r;
  std::vector<const Json*> servers;
  std::set<std::string> behind;  // who answers for the service
  for (const Json& agent : agents) {
    r.lost += Number(agent, "recordsLost");
    for (const Json& series : Items(agent, "series")) {
      if (!Is(Str(series, "source"), pair.from)) continue;
      if (Str(series, "reporter") == "destination") {
        servers.push_back(&series);
        continue;
      }
      const bool wanted = pair.to_service.empty() ? Is(Str(series, "destination"), pair.to)
                                                  : Str(series, "service") == pair.to_service;
      if (!wanted) continue;
      behind.insert(Str(series, "destination"));
      Add(r.client, series);
      (Str(series, "path") == "direct" ? r.direct : r.proxied) += Number(series, "connections");
    }
  }
  uint64_t direct_servers = 0;
  for (const Json* series : servers) {
    const std::string to = Str(*series, "destination");
    if (pair.to_service.empty() ? !Is(to, pair.to) : to.empty() || !behind.contains(to)) continue;
    Add(r.server, *series);
    if (Str(*series, "path") == "direct") direct_servers += Number(*series, "connections");
  }
  const bool proxied = r.proxied > r.direct || (r.client.connections == 0 && direct_servers == 0);
  r.proxy_us = proxied ? proxy_us : 0;
  r.network_us = OnTheWay(r.client) + OnTheWay(r.server);
  // An application's handshake with the proxy in its own pod says nothing of the network.
  if (!proxied) r.network_us += Of(r.client.connect_us, r.client);
  r.application_us = Of(r.server.response_us, r.server);
  r.mesh_us = r.proxy_us;
  // Who does not read: between two applications it is one of them, else the proxy between them.
  const double unread = Of(r.client.window_us, r.client) + Of(r.server.window_us, r.server);
  (proxied ? r.mesh_us : r.application_us) += unread;
  if (std::max(r.client.established, r.server.established) < kEnoughSamples) {
    r.verdict = "not enough";
  } else if (r.network_us >= r.mesh_us && r.network_us >= r.application_us) {
    r.verdict = "network";
  } else {
    r.verdict = r.application_us >= r.mesh_us ? "application" : "mesh";
  }
  return r;
}

double SetupMicroseconds(const std::string& metrics, const std::string& reporter) {
  double us = 0;
  std::map<std::string, std::pair<double, double>> phases;
  for (const MetricSample& m : ParseMetrics(metrics)) {
    if (m.Label("reporter") != reporter || m.Label("phase") == "connect") continue;
    if (m.name == "qanat_connection_setup_seconds_sum") phases[m.Label("phase")].first = m.value;
    if (m.name == "qanat_connection_setup_seconds_count") phases[m.Label("phase")].second = m.value;
  }
  for (const auto& [phase, sum] : phases)
    if (sum.second > 0) us += sum.first / sum.second * 1e6;
  return us;
}

std::string HealthText(const HealthPair& pair, const HealthReport& r) {
  const std::string to = pair.to_service.empty() ? pair.to : pair.to_service;
  std::string out = fmt::format("{} -> {}: ", pair.from, to);
  const uint64_t samples = std::max(r.client.established, r.server.established);
  if (r.verdict == "not enough") {
    out += fmt::format("not enough: {} connections have ended, {} are needed\n", samples,
                       kEnoughSamples);
  } else {
    out += fmt::format("{}\n", r.verdict);
  }
  const double all = r.network_us + r.mesh_us + r.application_us;
  const auto share = [&](double us) { return all > 0 ? 100 * us / all : 0; };
  out += fmt::format(
      "  network      {:>9}  {:>3.0f} %  on the way; {:.1f} of 1000 segments sent "
      "again, round trip {} (99 %: {})\n",
      Time(r.network_us), share(r.network_us),
      Permille(r.client.retransmits + r.server.retransmits, r.client.segments + r.server.segments),
      Time(std::max(r.client.srtt.Quantile(0.5), r.server.srtt.Quantile(0.5))),
      Time(std::max(r.client.srtt.Quantile(0.99), r.server.srtt.Quantile(0.99))));
  out += fmt::format(
      "  mesh         {:>9}  {:>3.0f} %  {} of {} connections through the proxy, {} "
      "to set one up\n",
      Time(r.mesh_us), share(r.mesh_us), r.proxied, r.proxied + r.direct, Time(r.proxy_us));
  out += fmt::format(
      "  application  {:>9}  {:>3.0f} %  until it had answered; half within {} (99 "
      "%: {})\n",
      Time(r.application_us), share(r.application_us), Time(r.server.response.Quantile(0.5)),
      Time(r.server.response.Quantile(0.99)));
  out += fmt::format("  {} connections told by clients, {} by servers, {} broken\n",
                     r.client.connections, r.server.connections,
                     std::max(r.client.failed, r.server.failed));
  if (r.lost != 0)
    out += fmt::format("  the figures lack {} connections, whose records were lost\n", r.lost);
  return out;
}

Json HealthJson(const HealthPair& pair, const HealthReport& r) {
  return {{"from", pair.from},
          {"to", pair.to_service.empty() ? pair.to : pair.to_service},
          {"verdict", r.verdict},
          {"samples", std::max(r.client.established, r.server.established)},
          {"networkUs", r.network_us},
          {"meshUs", r.mesh_us},
          {"applicationUs", r.application_us},
          {"proxySetupUs", r.proxy_us},
          {"direct", r.direct},
          {"proxied", r.proxied},
          {"client", EndJson(r.client)},
          {"server", EndJson(r.server)},
          {"recordsLost", r.lost}};
}

}  // namespace qanat::ctl
