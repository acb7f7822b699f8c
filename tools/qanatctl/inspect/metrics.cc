// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/inspect/metrics.h"

#include <charconv>

namespace qanat::ctl {
namespace {

// key="value",... up to '}'. False when the line is damaged.
bool ReadLabels(std::string_view& in, std::map<std::string, std::string>& out) {
  while (!in.empty() && in.front() != '}') {
    const size_t equals = in.find("=\"");
    if (equals == std::string_view::npos) return false;
    const std::string key(in.substr(0, equals));
    in.remove_prefix(equals + 2);
    std::string value;
    while (!in.empty() && in.front() != '"') {
      if (in.front() == '\\' && in.size() > 1) {
        in.remove_prefix(1);
        value += in.front() == 'n' ? '\n' : in.front();
      } else {
        value += in.front();
      }
      in.remove_prefix(1);
    }
    if (in.empty()) return false;
    in.remove_prefix(1);
    out[key] = value;
    if (!in.empty() && in.front() == ',') in.remove_prefix(1);
  }
  if (in.empty()) return false;
  in.remove_prefix(1);
  return true;
}

}  // namespace

std::string MetricSample::Label(const std::string& key) const {
  auto it = labels.find(key);
  return it == labels.end() ? std::string() : it->second;
}

std::vector<MetricSample> ParseMetrics(std::string_view text) {
  std::vector<MetricSample> out;
  while (!text.empty()) {
    const size_t eol = text.find('\n');
    std::string_view line = text.substr(0, eol);
    text.remove_prefix(eol == std::string_view::npos ? text.size() : eol + 1);
    if (line.empty() || line.front() == '#') continue;
    MetricSample sample;
    const size_t end = line.find_first_of("{ ");
    if (end == std::string_view::npos) continue;
    sample.name = std::string(line.substr(0, end));
    const bool labelled = line[end] == '{';
    line.remove_prefix(end + (labelled ? 1 : 0));
    if (labelled && !ReadLabels(line, sample.labels)) continue;
    while (!line.empty() && line.front() == ' ') line.remove_prefix(1);
    const size_t stop = std::min(line.size(), line.find(' '));
    auto parsed = std::from_chars(line.data(), line.data() + stop, sample.value);
    if (parsed.ec != std::errc()) continue;
    out.push_back(std::move(sample));
  }
  return out;
}

}  // namespace qanat::ctl
