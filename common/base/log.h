// SPDX-License-Identifier: Apache-2.0
// Logging: LOG_INFO("scope", "enrolled {} in {} ms", uid, ms). The scope names the part
// ("zds", "ca", "pool"); levels can be changed per scope at run time. Text or JSON lines on stderr.
// Any thread may log. Messages never carry keys, tokens or payload.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "common/base/result.h"

namespace qanat::log {

enum class Level { kTrace, kDebug, kInfo, kWarn, kError, kOff };
enum class Format { kText, kJson };

// Call once at the start of main(). `program` is printed in JSON lines as "component".
void Init(std::string_view program, Format format);

// "info", or "info,zds=debug,pool:trace" as RUST_LOG has it; an unknown level is an error and
// changes nothing.
Status SetLevels(std::string_view spec);
std::string Levels();  // the present spec, for /logging

bool Enabled(std::string_view scope, Level level);
void Write(std::string_view scope, Level level, std::string_view message);
// A finished line that must go out as it is (the access log has its own field order).
void WriteRaw(std::string_view line);
Format CurrentFormat();

// "a\"b" with quotes and control characters escaped as JSON wants.
std::string JsonQuote(std::string_view text);
// 2026-11-22T05:22:27.123456Z
std::string Timestamp();

}  // namespace qanat::log

#define QANAT_LOG(scope, level, ...)                                 \
  do {                                                               \
    if (::qanat::log::Enabled(scope, level))                         \
      ::qanat::log::Write(scope, level, ::fmt::format(__VA_ARGS__)); \
  } while (false)
#define LOG_TRACE(scope, ...) QANAT_LOG(scope, ::qanat::log::Level::kTrace, __VA_ARGS__)
#define LOG_DEBUG(scope, ...) QANAT_LOG(scope, ::qanat::log::Level::kDebug, __VA_ARGS__)
#define LOG_INFO(scope, ...) QANAT_LOG(scope, ::qanat::log::Level::kInfo, __VA_ARGS__)
#define LOG_WARN(scope, ...) QANAT_LOG(scope, ::qanat::log::Level::kWarn, __VA_ARGS__)
#define LOG_ERROR(scope, ...) QANAT_LOG(scope, ::qanat::log::Level::kError, __VA_ARGS__)
