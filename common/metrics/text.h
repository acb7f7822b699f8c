// SPDX-License-Identifier: Apache-2.0
// The text form of metrics: escaping, number format, the differences between Prometheus 0.0.4 and
// OpenMetrics 1.0. Used by Registry::Render only.
#pragma once

#include <string>
#include <string_view>

#include "common/metrics/registry.h"

namespace qanat::metrics::text {

bool IsMetricName(std::string_view name);
bool IsLabelName(std::string_view name);
std::string EscapeLabelValue(std::string_view value);
std::string EscapeHelp(std::string_view help);
std::string Number(double value);  // "12", "0.25", "+Inf"

class Writer {
 public:
  explicit Writer(TextFormat format) : format_(format) {}
  void Begin(Kind kind, std::string_view name, std::string_view help);
  void Value(const LabelNames& names, const LabelValues& values, double value);
  void Value(const Labels& labels, double value);
  void HistogramValue(const LabelNames& names, const LabelValues& values,
                      const std::vector<double>& bounds, const Histogram::Snapshot& snapshot);
  std::string Finish();

 private:
  void Line(std::string_view suffix, std::string_view labels, double value);
  TextFormat format_;
  Kind kind_ = Kind::kGauge;
  std::string name_;
  std::string out_;
};

}  // namespace qanat::metrics::text
