// SPDX-License-Identifier: Apache-2.0
#include "controlplane/source/reader.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace qanat::controlplane {
namespace {

bool LooksTyped(const YamlNode& node) {
  if (node.quoted || node.text.empty()) return false;
  if (node.text == "true" || node.text == "false") return true;
  double number = 0;
  const char* end = node.text.data() + node.text.size();
  const auto [at, error] = std::from_chars(node.text.data(), end, number);
  return error == std::errc() && at == end;
}

// Close enough to be the same word mistyped: one edit, or only the case differs.
bool Similar(std::string_view a, std::string_view b) {
  if (a.size() > b.size()) std::swap(a, b);
  if (b.size() - a.size() > 1) return false;
  size_t i = 0;
  while (i < a.size() && std::tolower(a[i]) == std::tolower(b[i])) ++i;
  if (i == a.size()) return true;
  const std::string_view rest_a = a.size() == b.size() ? a.substr(i + 1) : a.substr(i);
  return rest_a == b.substr(i + 1);
}

}  // namespace

void ReadContext::Error(int line, std::string message, std::string remedy) {
  failed = true;
  issues.push_back(
      {Issue::Severity::kError, file, line, object, std::move(message), std::move(remedy)});
}

void ReadContext::Warn(int line, std::string message, std::string remedy) {
  issues.push_back(
      {Issue::Severity::kWarning, file, line, object, std::move(message), std::move(remedy)});
}

std::optional<std::string> ScalarText(const YamlNode& node) {
  if (node.is_scalar()) return node.text;
  if (node.is_null() && node.quoted) return node.text;
  return std::nullopt;
}

std::optional<Millis> ParseDuration(std::string_view text) {
  if (text.empty()) return std::nullopt;
  if (text == "0") return Millis(0);
  double total_ms = 0;
  while (!text.empty()) {
    double value = 0;
    const auto [at, error] =
        std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
    if (error != std::errc() || value < 0 || !std::isfinite(value)) return std::nullopt;
    text.remove_prefix(static_cast<size_t>(at - text.data()));
    double unit = 0;
    size_t length = 1;
    if (text.starts_with("ms")) {
      unit = 1, length = 2;
    } else if (text.starts_with("us")) {
      unit = 1e-3, length = 2;
    } else if (text.starts_with("ns")) {
      unit = 1e-6, length = 2;
    } else if (text.starts_with("h")) {
      unit = 3600e3;
    } else if (text.starts_with("m")) {
      unit = 60e3;
    } else if (text.starts_with("s")) {
      unit = 1e3;
    } else {
      return std::nullopt;
    }
    text.remove_prefix(length);
    total_ms += value * unit;
  }
  constexpr double kLongest = 1e3 * 3600 * 24 * 365 * 100;
  if (total_ms > kLongest) return std::nullopt;
  return Millis(static_cast<int64_t>(std::ceil(total_ms - 1e-9)));
}

bool ValidNamespace(std::string_view name) {
  if (name.empty() || name.size() > 63) return false;
  for (char c : name) {
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-')) return false;
  }
  return name.front() != '-' && name.back() != '-';
}

bool ValidName(std::string_view name) {
  if (name.empty() || name.size() > 253) return false;
  for (char c : name) {
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.')) return false;
  }
  return name.front() != '-' && name.back() != '-' && name.front() != '.' && name.back() != '.' &&
         name.find("..") == std::string_view::npos;
}

MapReader::MapReader(const YamlNode* node, std::string path, ReadContext& context,
                     std::vector<std::string>* unknown)
    : node_(node), path_(std::move(path)), context_(context), unknown_(unknown) {
  if (node_ == nullptr) return;
  line_ = node_->line;
  if (node_->is_null() || node_->is_map()) return;
  const std::string what =
      fmt::format("{} must be a map, not {}", path_.empty() ? "this" : path_, node_->KindName());
  node_ = nullptr;
  const bool failed = context_.failed;
  context_.Error(line_, what, "check the indentation");
  if (unknown_ == nullptr) return;
  unknown_->push_back(path_);
  context_.failed = failed;
}

std::string MapReader::PathOf(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

void MapReader::Bad(int line, std::string_view key, std::string message, std::string remedy) {
  const bool failed = context_.failed;
  context_.Error(line, fmt::format("{}: {}", PathOf(key), message), std::move(remedy));
  if (unknown_ == nullptr) return;
  unknown_->push_back(PathOf(key));
  context_.failed = failed;
}

const YamlNode* MapReader::Take(std::string_view key) {
  if (node_ == nullptr) return nullptr;
  taken_.emplace(key);
  const YamlNode* found = node_->Find(key);
  return found == nullptr || (found->is_null() && !found->quoted) ? nullptr : found;
}

std::string MapReader::String(std::string_view key) {
  const YamlNode* node = Take(key);
  if (node == nullptr) return {};
  const std::optional<std::string> text = ScalarText(*node);
  if (!text) {
    Bad(node->line, key, fmt::format("must be a string, not {}", node->KindName()));
    return {};
  }
  if (LooksTyped(*node)) {
    context_.Warn(node->line, fmt::format("{}: {} is a string here", PathOf(key), *text),
                  fmt::format("quote it (\"{}\"): an API server refuses it otherwise", *text));
  }
  return *text;
}

std::optional<bool> MapReader::MaybeBool(std::string_view key) {
  const YamlNode* node = Take(key);
  if (node == nullptr) return std::nullopt;
  if (node->is_scalar() && !node->quoted && node->text == "true") return true;
  if (node->is_scalar() && !node->quoted && node->text == "false") return false;
  Bad(node->line, key, "must be true or false", "write true or false without quotes");
  return std::nullopt;
}

bool MapReader::Bool(std::string_view key, bool otherwise) {
  return MaybeBool(key).value_or(otherwise);
}

std::optional<int64_t> MapReader::Int(std::string_view key, int64_t least, int64_t most) {
  const YamlNode* node = Take(key);
  if (node == nullptr) return std::nullopt;
  int64_t value = 0;
  const char* end = node->text.data() + node->text.size();
  const auto [at, error] = std::from_chars(node->text.data(), end, value);
  if (!node->is_scalar() || node->quoted || at != end || node->text.empty() ||
      error == std::errc::invalid_argument) {
    Bad(node->line, key, "must be a whole number", "write it without quotes");
    return std::nullopt;
  }
  if (error != std::errc() || value < least || value > most) {
    Bad(node->line, key, fmt::format("{} is out of range", node->text),
        fmt::format("use a number from {} to {}", least, most));
    return std::nullopt;
  }
  return value;
}

std::optional<double> MapReader::Number(std::string_view key, double least, double most) {
  const YamlNode* node = Take(key);
  if (node == nullptr) return std::nullopt;
  double value = 0;
  const char* end = node->text.data() + node->text.size();
  const auto [at, error] = std::from_chars(node->text.data(), end, value);
  if (!node->is_scalar() || error != std::errc() || at != end || !(value >= least) ||
      !(value <= most)) {
    Bad(node->line, key, "must be a number in range",
        fmt::format("use a number from {} to {}", least, most));
    return std::nullopt;
  }
  return value;
}

uint16_t MapReader::Port(std::string_view key) {
  return static_cast<uint16_t>(Int(key, 1, 65535).value_or(0));
}

std::optional<Millis> MapReader::Duration(std::string_view key) {
  const YamlNode* node = Take(key);
  if (node == nullptr) return std::nullopt;
  std::optional<Millis> value;
  if (node->is_scalar()) value = ParseDuration(node->text);
  if (!value) {
    Bad(node->line, key, "must be a duration", "write a number with a unit: 10s, 500ms, 1h");
  }
  return value;
}

std::vector<std::string> MapReader::Strings(std::string_view key) {
  std::vector<std::string> out;
  for (const YamlNode* item : Items(key)) {
    const std::optional<std::string> text = ScalarText(*item);
    if (!text) {
      Bad(item->line, key, fmt::format("holds {} where a string is wanted", item->KindName()));
      continue;
    }
    if (LooksTyped(*item)) {
      context_.Warn(item->line, fmt::format("{}: {} is a string here", PathOf(key), *text),
                    fmt::format("quote it (\"{}\"): an API server refuses it otherwise", *text));
    }
    out.push_back(*text);
  }
  return out;
}

Labels MapReader::StringMap(std::string_view key) {
  Labels out;
  const YamlNode* node = Take(key);
  if (node == nullptr) return out;
  if (!node->is_map()) {
    Bad(node->line, key, fmt::format("must be a map of strings, not {}", node->KindName()));
    return out;
  }
  for (const YamlEntry& entry : node->entries) {
    if (entry.value.is_null()) {
      out[entry.key] = "";
      continue;
    }
    const std::optional<std::string> text = ScalarText(entry.value);
    if (!text) {
      Bad(entry.line, key, fmt::format("the value of {} must be a string", entry.key));
      continue;
    }
    if (LooksTyped(entry.value)) {
      context_.Warn(entry.line,
                    fmt::format("{}.{}: {} is a string here", PathOf(key), entry.key, *text),
                    fmt::format("quote it (\"{}\"): an API server refuses it otherwise", *text));
    }
    out[entry.key] = *text;
  }
  return out;
}

std::vector<const YamlNode*> MapReader::Items(std::string_view key) {
  std::vector<const YamlNode*> out;
  const YamlNode* node = Take(key);
  if (node == nullptr) return out;
  if (!node->is_sequence()) {
    Bad(node->line, key, fmt::format("must be a list, not {}", node->KindName()),
        "put a dash before each element");
    return out;
  }
  for (const YamlNode& item : node->items) out.push_back(&item);
  return out;
}

MapReader MapReader::Map(std::string_view key) {
  return MapReader(Take(key), PathOf(key), context_, unknown_);
}

void MapReader::Ignore(std::initializer_list<std::string_view> keys) {
  for (std::string_view key : keys) taken_.emplace(key);
}

void MapReader::NotServed(std::string_view key, std::string_view remedy) {
  if (const YamlNode* node = Take(key)) {
    context_.Warn(node->line, fmt::format("{} has no effect here", PathOf(key)),
                  std::string(remedy));
  }
}

void MapReader::Finish() {
  if (node_ == nullptr) return;
  for (const YamlEntry& entry : node_->entries) {
    if (taken_.contains(entry.key)) continue;
    std::string remedy = "remove it, or check its spelling and indentation";
    for (const std::string& known : taken_) {
      if (Similar(known, entry.key)) remedy = fmt::format("did you mean {}?", known);
    }
    const std::string message = fmt::format("unknown field {}", PathOf(entry.key));
    if (unknown_ == nullptr) {
      context_.Warn(entry.line, message + ": ignored", remedy);
      continue;
    }
    unknown_->push_back(PathOf(entry.key));
    const bool failed = context_.failed;
    context_.Error(entry.line, message + ": this part of the policy fails closed", remedy);
    context_.failed = failed;
  }
}

}  // namespace qanat::controlplane
