// SPDX-License-Identifier: Apache-2.0
// Paths: URI templates of AuthorizationPolicy ("/foo/{*}/bar", "/files/{**}") and the
// normalisation that must come before any path is matched, so that "/a/../admin" and "/%2e%2e"
// cannot pass a rule that was written for "/admin". Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace qanat::waypoint {

// {*} or {name} is one segment, {**} or {name=**} any number of them.
bool MatchesPathTemplate(std::string_view path_template, std::string_view path);

struct PathNormalization {
  bool dot_segments = false;  // HCM normalize_path: "." and "..", "\" as "/", escaped dots
  bool merge_slashes = false;
  enum class EscapedSlashes : uint8_t { kKeep, kReject, kUnescapeAndForward };
  EscapedSlashes escaped_slashes = EscapedSlashes::kKeep;
};

// The normalised path with its query; nothing when the request must be answered with 400. The
// fragment is cut off, as Envoy's HCM does.
std::optional<std::string> NormalizePath(const PathNormalization& how, std::string_view path);

}  // namespace qanat::waypoint
