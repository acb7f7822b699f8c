// SPDX-License-Identifier: Apache-2.0
// String, header and query matchers as Envoy defines them (envoy.type.matcher.v3.StringMatcher,
// envoy.config.route.v3.HeaderMatcher). Pure values: immutable once decoded, shared by all threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "waypoint/route/head_view.h"

namespace re2 {
class RE2;
}

namespace qanat::waypoint {

// RE2, always matched against the whole text, in linear time.
class Regex {
 public:
  static Result<Regex> Compile(std::string_view pattern);
  bool FullMatch(std::string_view text) const;
  // Replaces every match; "\1" in the substitution is a group.
  std::string ReplaceAll(std::string_view text, const std::string& substitution) const;
  std::string_view pattern() const;

 private:
  std::shared_ptr<const re2::RE2> re_;
};

struct StringMatch {
  enum class Kind : uint8_t { kExact, kPrefix, kSuffix, kContains, kRegex };
  Kind kind = Kind::kExact;
  bool ignore_case = false;
  std::string value;  // lower case when ignore_case; the pattern when kRegex
  Regex regex;

  bool Matches(std::string_view text) const;
  std::string Describe() const;  // "/api/*", "*.example", "~regex"
};

struct HeaderMatch {
  enum class Kind : uint8_t { kPresent, kString, kRange };
  std::string name;  // lower case; may be ":method", ":path", ":authority", ":scheme"
  Kind kind = Kind::kPresent;
  bool present = true;  // kPresent: what is wanted
  bool invert = false;
  // Envoy: a missing header never matches a value matcher, inverted or not, unless this is set.
  bool missing_is_empty = false;
  StringMatch text;
  int64_t range_start = 0;  // kRange: [start, end)
  int64_t range_end = 0;

  bool Matches(const HeadView& head) const;
  std::string Describe() const;
};

struct QueryMatch {
  std::string name;
  bool by_value = false;  // else by presence
  bool present = true;
  StringMatch text;

  // Envoy looks at the first value of a repeated parameter and compares it percent-encoded as it
  // stands in the path.
  bool Matches(std::string_view query) const;
  std::string Describe() const;
};

std::string AsciiLower(std::string_view text);
bool EqualsIgnoreCase(std::string_view a, std::string_view b);

}  // namespace qanat::waypoint
