// SPDX-License-Identifier: Apache-2.0
// Takes series out of the metrics when their subjects are gone (those of traffic with the
// workloads, those of DNS with the pods), so that a scrape of a long-lived proxy does not grow with
// every deployment there ever was. Main thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "common/state/snapshot.h"
#include "ztunnel/telemetry/metrics.h"

namespace qanat::ztunnel {

class SeriesSweeper {
 public:
  // Removes series of workloads that are not known (DNS: that no pod of `here` is) and were not at
  // the last sweep, and that have not changed since then; returns how many. After a removal every
  // worker must forget its handles (Worker::ForgetSeries).
  size_t Sweep(const state::MeshSnapshot& snapshot, const std::vector<model::WorkloadPtr>& here,
               Metrics& metrics);

 private:
  using Sums = std::map<metrics::LabelValues, uint64_t>;
  using Gone = std::function<bool(const metrics::LabelValues&)>;
  using Counters = std::vector<metrics::Family<metrics::Counter>*>;
  // The counters' series that are `gone` and idle; which those are now is noted in `idle`.
  static std::set<metrics::LabelValues> Idle(const Counters& families, const Gone& gone,
                                             Sums* idle);

  Sums idle_, idle_dns_;  // sums of the series of who was gone then
};

}  // namespace qanat::ztunnel
