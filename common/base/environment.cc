// SPDX-License-Identifier: Apache-2.0
#include "common/base/environment.h"

#include <fmt/format.h>

#include <cmath>

namespace qanat {

const char* EnvironmentReader::Value(const char* name) const {
  const char* value = get_(name);
  return value == nullptr || *value == '\0' ? nullptr : value;
}

void EnvironmentReader::Text(const char* name, std::string& out) {
  if (const char* value = get_(name)) out = value;
}

void EnvironmentReader::Url(const char* name, std::string& out) {
  Text(name, out);
  if (!out.empty() && out.find("://") == std::string::npos) out.insert(0, "https://");
}

void EnvironmentReader::Bool(const char* name, bool& out) {
  const char* value = Value(name);
  if (value == nullptr) return;
  const std::string_view text = value;
  if (text == "true" || text == "1") {
    out = true;
  } else if (text == "false" || text == "0") {
    out = false;
  } else {
    Bad(name, "true or false");
  }
}

void EnvironmentReader::Duration(const char* name, std::chrono::milliseconds& out) {
  const char* value = Value(name);
  if (value == nullptr) return;
  if (const auto parsed = ParseDuration(value)) {
    out = *parsed;
  } else {
    Bad(name, "a duration as 30s or 5m");
  }
}

void EnvironmentReader::Duration(const char* name, std::chrono::seconds& out) {
  std::chrono::milliseconds fine = out;
  Duration(name, fine);
  out = std::chrono::duration_cast<std::chrono::seconds>(fine);
}

void EnvironmentReader::Bad(const char* name, std::string_view wanted) {
  const char* value = get_(name);
  if (error_.empty()) {
    error_ = fmt::format("{}=\"{}\": expected {}", name, value == nullptr ? "" : value, wanted);
  }
}

Status EnvironmentReader::status() const {
  if (error_.empty()) return {};
  return Fail(Code::kInvalidArgument, error_);
}

Result<std::chrono::milliseconds> ParseDuration(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  double factor = 0;
  if (unit.empty() || unit == "s") factor = 1000;
  if (unit == "ms") factor = 1;
  if (unit == "m") factor = 60'000;
  if (unit == "h") factor = 3'600'000;
  if (error != std::errc() || factor == 0 || !(value >= 0 && value * factor <= 1e12)) {
    return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is not a duration", text));
  }
  return std::chrono::milliseconds(static_cast<int64_t>(std::llround(value * factor)));
}

}  // namespace qanat
