// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/sweep.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace qanat::ztunnel {
namespace {

size_t IndexOf(std::string_view name) {
  const metrics::LabelNames& names = FlowLabelNames();
  return static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
}

std::string NameOf(std::string_view ns, std::string_view workload) {
  std::string out(ns);
  out.push_back('\0');
  return out.append(workload);
}

}  // namespace

size_t SeriesSweeper::Sweep(const state::MeshSnapshot& snapshot, Metrics& metrics) {
  static const std::pair<size_t, size_t> kEnds[] = {
      {IndexOf("source_workload_namespace"), IndexOf("source_workload")},
      {IndexOf("destination_workload_namespace"), IndexOf("destination_workload")}};
  std::unordered_set<std::string> now;
  snapshot.ForEachWorkload(
      [&](const model::WorkloadPtr& w) { now.insert(NameOf(w->ns, w->workload_name)); });
  const auto is_gone = [&](const std::string& ns, const std::string& workload) {
    if (workload == "unknown" || workload == "overflow") return false;
    return !now.contains(NameOf(ns, workload));
  };
  const auto gone = [&](const metrics::LabelValues& labels) {
    return std::any_of(std::begin(kEnds), std::end(kEnds), [&](const auto& end) {
      return is_gone(labels[end.first], labels[end.second]);
    });
  };
  // What still counts belongs to somebody: a connection that outlives its workload, or one from
  // another network, whose workloads no snapshot has.
  metrics::Family<metrics::Counter>* const families[] = {
      &metrics.opened, &metrics.closed, &metrics.failed, &metrics.sent, &metrics.received};
  std::map<metrics::LabelValues, uint64_t> idle;
  for (const auto* family : families) {
    family->ForEach([&](const metrics::LabelValues& labels, uint64_t value) {
      if (gone(labels)) idle[labels] += value;
    });
  }
  size_t removed = 0;
  for (auto* family : families) {
    removed += family->RemoveIf([&](const metrics::LabelValues& labels) {
      const auto is = idle.find(labels), was = idle_.find(labels);
      return is != idle.end() && was != idle_.end() && is->second == was->second;
    });
  }
  idle_ = std::move(idle);
  removed += metrics.on_demand_dns.RemoveIf([&](const metrics::LabelValues& labels) {
    return is_gone(labels[kEnds[0].first - 1], labels[kEnds[0].second - 1]);  // no reporter there
  });
  return removed;
}

}  // namespace qanat::ztunnel
