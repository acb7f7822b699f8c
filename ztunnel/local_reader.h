// SPDX-License-Identifier: Apache-2.0
// Reads the maps of a local configuration: typed fields by name, the first error with its line, and
// at the end whatever field nobody asked for. Used by local_config.cc only.
#pragma once

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/net/address.h"
#include "common/yaml/yaml.h"

namespace qanat::ztunnel {

class LocalErrors {
 public:
  void Add(const YamlNode& at, std::string_view what) {
    if (first_.empty()) first_ = fmt::format("line {}: {}", at.line, what);
  }
  bool ok() const { return first_.empty(); }
  Status status() const { return ok() ? Status() : Fail(Code::kInvalidArgument, first_); }

 private:
  std::string first_;
};

class LocalReader {
 public:
  // `what` names the object in messages. Both outlive the reader.
  LocalReader(const YamlNode& node, std::string what, LocalErrors& errors)
      : node_(node), what_(std::move(what)), errors_(errors) {
    if (!node_.is_map()) Bad(node_, fmt::format("expected a map, found {}", node_.KindName()));
  }

  // nullptr where it is not given; the name counts as known from then on.
  const YamlNode* Find(const char* key) {
    known_.insert(key);
    const YamlNode* found = node_.Find(key);
    if (found == nullptr || !found->is_null()) return found;
    if (may_be_empty_) return nullptr;
    // A condition that says nothing must not be taken for one that is not there.
    Bad(*found, fmt::format("{} has no value", key));
    return nullptr;
  }
  std::string Text(const char* key, std::string_view otherwise = "") {
    const YamlNode* found = Find(key);
    if (found == nullptr) return std::string(otherwise);
    if (!found->is_scalar()) Bad(*found, fmt::format("{}: expected a text", key));
    return found->text;
  }
  std::string Needed(const char* key) {
    std::string text = Text(key);
    if (text.empty()) Bad(node_, fmt::format("{} is missing", key));
    return text;
  }
  bool Bool(const char* key, bool otherwise) {
    const YamlNode* found = Find(key);
    if (found == nullptr) return otherwise;
    if (found->text != "true" && found->text != "false") {
      Bad(*found, fmt::format("{}: expected true or false", key));
    }
    return found->text == "true";
  }
  uint32_t Number(const char* key, uint32_t otherwise, uint32_t most) {
    const YamlNode* found = Find(key);
    return found == nullptr ? otherwise : NumberOf(*found, key, most);
  }
  uint32_t NumberOf(const YamlNode& node, std::string_view key, uint32_t most) {
    uint32_t value = 0;
    const char* end = node.text.data() + node.text.size();
    const auto [stop, error] = std::from_chars(node.text.data(), end, value);
    if (!node.is_scalar() || error != std::errc() || stop != end || value > most) {
      Bad(node, fmt::format("{}: expected a number from 0 to {}", key, most));
      return 0;
    }
    return value;
  }
  // From here on "key:" without a value is as if it were not there.
  void MayBeEmpty() { may_be_empty_ = true; }
  // Calls `each` for every item of a list that may be absent.
  template <typename Each>
  void List(const char* key, Each each) {
    const YamlNode* found = Find(key);
    if (found == nullptr) return;
    if (!found->is_sequence()) return Bad(*found, fmt::format("{}: expected a list", key));
    for (const YamlNode& item : found->items) each(item);
  }
  template <typename Each>
  void Map(const char* key, Each each) {
    const YamlNode* found = Find(key);
    if (found == nullptr) return;
    if (!found->is_map()) return Bad(*found, fmt::format("{}: expected a map", key));
    for (const YamlEntry& entry : found->entries) each(entry);
  }
  void Bad(const YamlNode& at, std::string_view message) {
    errors_.Add(at, fmt::format("{}: {}", what_, message));
  }
  // Every field must have been asked for.
  void End() {
    for (const YamlEntry& entry : node_.entries) {
      if (!known_.contains(entry.key)) {
        Bad(entry.value, fmt::format("unknown field \"{}\"", entry.key));
      }
    }
  }

 private:
  const YamlNode& node_;
  const std::string what_;
  LocalErrors& errors_;
  bool may_be_empty_ = false;
  std::set<std::string, std::less<>> known_;
};

}  // namespace qanat::ztunnel
