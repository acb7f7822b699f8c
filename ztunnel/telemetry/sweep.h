// SPDX-License-Identifier: Apache-2.0
// Takes traffic series out of the metrics when their workloads are gone, so that a scrape of a
// long-lived proxy does not grow with every deployment there ever was. Main thread.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <unordered_set>

#include "common/state/snapshot.h"
#include "ztunnel/telemetry/metrics.h"

namespace qanat::ztunnel {

class SeriesSweeper {
 public:
  // Removes series of workloads that are not known and were not at the last sweep, and that have
  // not changed since then; returns how many. After a removal every worker must forget its handles
  // (Worker::ForgetSeries).
  size_t Sweep(const state::MeshSnapshot& snapshot, Metrics& metrics);

 private:
  std::map<metrics::LabelValues, uint64_t> idle_;  // sums of the series of who was gone then
};

}  // namespace qanat::ztunnel
