// SPDX-License-Identifier: Apache-2.0
#include "common/metrics/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "common/base/utf8.h"

namespace qanat::metrics::text {
namespace {

bool IsAlpha(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

void AppendLabel(std::string& out, std::string_view name, std::string_view value) {
  if (!out.empty()) out += ',';
  out.append(name).append("=\"").append(EscapeLabelValue(value)).append("\"");
}

// A label without a value is none: scrapers read both alike.
std::string JoinLabels(const LabelNames& names, const LabelValues& values) {
  std::string out;
  for (size_t i = 0; i < names.size() && i < values.size(); ++i) {
    if (!values[i].empty()) AppendLabel(out, names[i], values[i]);
  }
  return out;
}

}  // namespace

bool IsMetricName(std::string_view name) {
  return !name.empty() && (IsAlpha(name[0]) || name[0] == ':') &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return IsAlpha(c) || IsDigit(c) || c == ':'; });
}

bool IsLabelName(std::string_view name) {
  return !name.empty() && IsAlpha(name[0]) &&
         std::all_of(name.begin(), name.end(), [](char c) { return IsAlpha(c) || IsDigit(c); });
}

std::string EscapeLabelValue(std::string_view value) {
  std::string out;
  out.reserve(value.size());
  // One value that is no UTF-8 (of a peer's header, say) would cost a scraper all of the others.
  for (size_t bad = 0; bad != value.npos;) {
    bad = FirstNotUtf8(value);
    for (const char c : value.substr(0, bad)) {
      switch (c) {
        case '\\': out += "\\\\"; break;
        case '"': out += "\\\""; break;
        case '\n': out += "\\n"; break;
        default: out += c;
      }
    }
    if (bad == value.npos) break;
    out += "\xef\xbf\xbd";  // U+FFFD
    value.remove_prefix(bad + 1);
  }
  return out;
}

std::string EscapeHelp(std::string_view help) {
  std::string out;
  for (char c : help) {
    if (c == '\\') {
      out += "\\\\";
    } else if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

std::string Number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  if (value == std::floor(value) && std::abs(value) < 1e15) {
    return fmt::format("{}", static_cast<int64_t>(value));
  }
  return fmt::format("{}", value);
}

void Writer::Begin(Kind kind, std::string_view name, std::string_view help) {
  kind_ = kind;
  name_ = name;
  // Prometheus names the family of a counter as its samples are named, OpenMetrics without _total.
  std::string family(name);
  if (kind == Kind::kCounter && format_ == TextFormat::kPrometheus) family += "_total";
  std::string_view type;
  switch (kind) {
    case Kind::kCounter: type = "counter"; break;
    case Kind::kGauge: type = "gauge"; break;
    case Kind::kHistogram: type = "histogram"; break;
  }
  out_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", family, EscapeHelp(help), family, type);
}

void Writer::Line(std::string_view suffix, std::string_view labels, double value) {
  out_.append(name_).append(suffix);
  if (!labels.empty()) out_.append("{").append(labels).append("}");
  out_.append(" ").append(Number(value)).append("\n");
}

void Writer::Value(const LabelNames& names, const LabelValues& values, double value) {
  Line(kind_ == Kind::kCounter ? "_total" : "", JoinLabels(names, values), value);
}

void Writer::Value(const Labels& labels, double value) {
  std::string joined;
  for (const auto& [name, label_value] : labels) AppendLabel(joined, name, label_value);
  Line(kind_ == Kind::kCounter ? "_total" : "", joined, value);
}

void Writer::HistogramValue(const LabelNames& names, const LabelValues& values,
                            const std::vector<double>& bounds,
                            const Histogram::Snapshot& snapshot) {
  const std::string labels = JoinLabels(names, values);
  for (size_t i = 0; i < snapshot.buckets.size(); ++i) {
    std::string bucket = labels;
    AppendLabel(bucket, "le", i < bounds.size() ? Number(bounds[i]) : "+Inf");
    Line("_bucket", bucket, static_cast<double>(snapshot.buckets[i]));
  }
  Line("_sum", labels, snapshot.sum);
  Line("_count", labels, static_cast<double>(snapshot.count));
}

std::string Writer::Finish() {
  if (format_ == TextFormat::kOpenMetrics) out_ += "# EOF\n";
  return std::move(out_);
}

}  // namespace qanat::metrics::text
