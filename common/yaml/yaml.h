// SPDX-License-Identifier: Apache-2.0
// YAML 1.2 and JSON text -> a plain tree in which every node knows its line. Pure; any thread. The
// only file that knows the YAML library is yaml.cc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qanat {

struct YamlEntry;

struct YamlNode {
  enum class Kind { kNull, kScalar, kSequence, kMap };
  Kind kind = Kind::kNull;
  bool quoted = false;  // a scalar written as a string on purpose
  std::string text;     // of a scalar
  std::vector<YamlNode> items;
  std::vector<YamlEntry> entries;  // in the order written, keys are unique
  int line = 0;                    // 1-based
  int column = 0;

  bool is_map() const { return kind == Kind::kMap; }
  bool is_sequence() const { return kind == Kind::kSequence; }
  bool is_scalar() const { return kind == Kind::kScalar; }
  bool is_null() const { return kind == Kind::kNull; }
  const YamlNode* Find(std::string_view key) const;  // nullptr when absent or not a map
  std::string_view KindName() const;                 // "a list", "a map", ... for messages
};

struct YamlEntry {
  std::string key;
  int line = 0;
  YamlNode value;
  bool merged = false;  // came by `<<`: the map's own key of that name replaces it
};

struct YamlError {
  int line = 0;
  int column = 0;
  std::string message;
  std::string remedy;
};

struct YamlFile {
  std::vector<YamlNode> documents;  // empty documents are left out
  std::vector<YamlError> errors;    // not empty: the documents are not complete
};

// Bounded: nesting, number of nodes after aliases are expanded. A duplicate key is an error that
// names both lines; `<<` merges as YAML 1.1 says.
YamlFile ParseYaml(std::string_view text);

}  // namespace qanat
