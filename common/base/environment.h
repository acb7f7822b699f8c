// SPDX-License-Identifier: Apache-2.0
// Configuration from environment variables. A variable that is not set leaves the default alone; of
// the values that cannot be read the first is kept as the error. Used while a program starts.
#pragma once

#include <charconv>
#include <chrono>
#include <functional>
#include <limits>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace qanat {

// A variable's value, or nullptr where it is not set; std::getenv in programs.
using GetEnvironment = std::function<const char*(const char*)>;

class EnvironmentReader {
 public:
  // `get` must outlive the reader.
  explicit EnvironmentReader(const GetEnvironment& get) : get_(get) {}

  // The value; nullptr where it is not set or empty.
  const char* Value(const char* name) const;

  void Text(const char* name, std::string& out);  // a set but empty variable counts
  // Stock proxies add https:// where an address has no scheme.
  void Url(const char* name, std::string& out);
  void Bool(const char* name, bool& out);  // true, 1, false, 0
  void Duration(const char* name, std::chrono::milliseconds& out);
  void Duration(const char* name, std::chrono::seconds& out);
  template <typename T>
  void Number(const char* name, T& out, T least = std::numeric_limits<T>::min(),
              T most = std::numeric_limits<T>::max()) {
    const char* value = Value(name);
    if (value == nullptr) return;
    const std::string_view text = value;
    T parsed{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed);
    if (error == std::errc() && end == text.data() + text.size() && parsed >= least &&
        parsed <= most) {
      out = parsed;
    } else {
      Bad(name, "a number from " + std::to_string(least) + " to " + std::to_string(most));
    }
  }
  // Makes NAME="value": expected `wanted` the error, if it is the first.
  void Bad(const char* name, std::string_view wanted);

  Status status() const;

 private:
  const GetEnvironment& get_;
  std::string error_;
};

// "15s", "5m", "1.5h", "250ms"; a bare number is seconds.
Result<std::chrono::milliseconds> ParseDuration(std::string_view text);

}  // namespace qanat
