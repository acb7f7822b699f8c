// SPDX-License-Identifier: Apache-2.0
// YAML text to JSON values, one per document, with the line where each begins. Pure. Duplicate keys
// are errors; aliases are expanded under a budget, so a small file cannot become a huge value.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qanat::local {

struct YamlError {
  int line = 0;  // 1-based
  int column = 0;
  std::string message;
};

struct YamlDocument {
  int line = 1;
  std::string json;  // compact text, so that this header stays light; never empty
};

struct YamlStream {
  std::vector<YamlDocument> documents;  // those before the error, if there is one
  std::optional<YamlError> error;
};

YamlStream ParseYaml(std::string_view text);

// The reverse, for -o yaml: block style, strings quoted where YAML would read something else.
std::string EmitYaml(const nlohmann::json& value);

}  // namespace qanat::local
