// SPDX-License-Identifier: Apache-2.0
// Reads Prometheus text, as far as counters with labels go. Pure; lines that are not understood are
// skipped.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace qanat::ctl {

struct MetricSample {
  std::string name;
  std::map<std::string, std::string> labels;
  double value = 0;
  std::string Label(const std::string& key) const;  // "" when absent
};

std::vector<MetricSample> ParseMetrics(std::string_view text);

}  // namespace qanat::ctl
