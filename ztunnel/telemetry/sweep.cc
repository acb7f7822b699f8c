// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/sweep.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

namespace qanat::ztunnel {
namespace {

size_t IndexOf(std::string_view name) {
  const metrics::LabelNames& names = FlowLabelNames();
  return static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
}

// Two parts of a name, as one.
std::string Joined(std::string_view first, std::string_view second) {
  std::string out(first);
  out.push_back('\0');
  return out.append(second);
}

size_t RemoveFrom(const std::set<metrics::LabelValues>& which, auto&... families) {
  return (families.RemoveIf([&](const metrics::LabelValues& labels) {
    return which.contains(labels);
  }) + ...);
}

}  // namespace

// What still counts belongs to somebody: a connection that outlives its workload, one from another
// network, whose workloads no snapshot has, or a question that is answered after its pod's end.
std::set<metrics::LabelValues> SeriesSweeper::Idle(const Counters& families, const Gone& gone,
                                                   Sums* idle) {
  Sums now;
  for (const auto* family : families) {
    family->ForEach([&](const metrics::LabelValues& labels, uint64_t value) {
      if (gone(labels)) now[labels] += value;
    });
  }
  std::set<metrics::LabelValues> out;
  for (const auto& [labels, sum] : now) {
    const auto before = idle->find(labels);
    if (before != idle->end() && before->second == sum) out.insert(labels);
  }
  *idle = std::move(now);
  return out;
}

size_t SeriesSweeper::Sweep(const state::MeshSnapshot& snapshot,
                            const std::vector<model::WorkloadPtr>& here, Metrics& metrics) {
  static const std::pair<size_t, size_t> kEnds[] = {
      {IndexOf("source_workload_namespace"), IndexOf("source_workload")},
      {IndexOf("destination_workload_namespace"), IndexOf("destination_workload")}};
  std::unordered_set<std::string> now;
  snapshot.ForEachWorkload(
      [&](const model::WorkloadPtr& w) { now.insert(Joined(w->ns, w->workload_name)); });
  const auto is_gone = [&](const std::string& ns, const std::string& workload) {
    if (workload == "unknown" || workload == "overflow") return false;
    return !now.contains(Joined(ns, workload));
  };
  const auto flow_gone = [&](const metrics::LabelValues& labels) {
    return std::any_of(std::begin(kEnds), std::end(kEnds), [&](const auto& end) {
      return is_gone(labels[end.first], labels[end.second]);
    });
  };
  const auto flows =
      Idle({&metrics.opened, &metrics.closed, &metrics.failed, &metrics.sent, &metrics.received},
           flow_gone, &idle_);
  size_t removed = RemoveFrom(flows, metrics.opened, metrics.closed, metrics.failed, metrics.sent,
                              metrics.received);
  removed += metrics.on_demand_dns.RemoveIf([&](const metrics::LabelValues& labels) {
    return is_gone(labels[kEnds[0].first - 1], labels[kEnds[0].second - 1]);  // no reporter there
  });

  // Whoever asks is a pod of this node: another node's of the same service does not keep them.
  std::unordered_set<std::string> asking;
  for (const auto& w : here) {
    asking.insert(Joined(DnsLabel(w->canonical_name), DnsLabel(w->canonical_revision)));
  }
  const auto asker_gone = [&](const metrics::LabelValues& labels) {
    return !asking.contains(Joined(labels[2], labels[3]));
  };
  const auto dns =
      Idle({&metrics.dns_requests, &metrics.dns_upstream_requests, &metrics.dns_upstream_failures},
           asker_gone, &idle_dns_);
  return removed + RemoveFrom(dns, metrics.dns_requests, metrics.dns_upstream_requests,
                              metrics.dns_upstream_failures, metrics.dns_upstream_duration);
}

}  // namespace qanat::ztunnel
