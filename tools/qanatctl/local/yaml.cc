// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/yaml.h"

#include <libfyaml.h>

#include <charconv>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "common/base/utf8.h"

namespace qanat::local {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 100;
constexpr int kMaxNodes = 500000;  // after alias expansion, per stream

struct Converter {
  int nodes = 0;
  std::string error;
  int line = 0;

  json Convert(fy_node* node, int depth) {
    if (!error.empty()) return nullptr;
    if (++nodes > kMaxNodes || depth > kMaxDepth) {
      error = "the document is too deep or too large once its aliases are expanded";
      line = LineOf(node);
      return nullptr;
    }
    if (node == nullptr) return nullptr;
    if (fy_node_is_alias(node)) {
      fy_node* target = fy_node_resolve_alias(node);
      if (target == nullptr) {
        error = "an alias (*name) has no anchor (&name)";
        line = LineOf(node);
        return nullptr;
      }
      return Convert(target, depth + 1);
    }
    switch (fy_node_get_type(node)) {
      case FYNT_SCALAR: return Scalar(node);
      case FYNT_SEQUENCE: return Sequence(node, depth);
      case FYNT_MAPPING: return Mapping(node, depth);
    }
    return nullptr;
  }

  static int LineOf(fy_node* node) {
    if (node == nullptr) return 0;
    if (fy_node_is_scalar(node)) {
      fy_token* token = fy_node_get_scalar_token(node);
      const fy_mark* mark = token != nullptr ? fy_token_start_mark(token) : nullptr;
      return mark != nullptr ? mark->line + 1 : 0;
    }
    if (fy_node_is_mapping(node) && fy_node_mapping_item_count(node) > 0) {
      return LineOf(fy_node_pair_key(fy_node_mapping_get_by_index(node, 0)));
    }
    if (fy_node_is_sequence(node) && fy_node_sequence_item_count(node) > 0) {
      return LineOf(fy_node_sequence_get_by_index(node, 0));
    }
    return 0;
  }

  // The core schema of YAML 1.2 on plain scalars; everything quoted is a string.
  json Scalar(fy_node* node) {
    size_t length = 0;
    const char* data = fy_node_get_scalar(node, &length);
    std::string text = data != nullptr ? std::string(data, length) : std::string();
    const fy_node_style style = fy_node_get_style(node);
    if (style != FYNS_PLAIN && style != FYNS_ANY) return text;
    if (text.empty() || text == "null" || text == "Null" || text == "NULL" || text == "~") {
      return nullptr;
    }
    if (text == "true" || text == "True" || text == "TRUE") return true;
    if (text == "false" || text == "False" || text == "FALSE") return false;
    const char* begin = text.data();
    const char* end = begin + text.size();
    if (*begin == '+') ++begin;
    int64_t integer = 0;
    auto parsed = std::from_chars(begin, end, integer);
    if (parsed.ec == std::errc() && parsed.ptr == end) return integer;
    const bool number_like =
        (text[0] >= '0' && text[0] <= '9') || text[0] == '-' || text[0] == '+' || text[0] == '.';
    if (number_like) {
      double real = 0;
      auto as_real = std::from_chars(begin, end, real);
      if (as_real.ec == std::errc() && as_real.ptr == end && std::isfinite(real)) return real;
    }
    return text;
  }

  json Sequence(fy_node* node, int depth) {
    json out = json::array();
    void* iterator = nullptr;
    while (fy_node* item = fy_node_sequence_iterate(node, &iterator)) {
      out.push_back(Convert(item, depth + 1));
    }
    return out;
  }

  json Mapping(fy_node* node, int depth) {
    json out = json::object();
    void* iterator = nullptr;
    while (fy_node_pair* pair = fy_node_mapping_iterate(node, &iterator)) {
      fy_node* key_node = fy_node_pair_key(pair);
      json key = key_node != nullptr ? Convert(key_node, depth + 1) : json(nullptr);
      if (!error.empty()) return nullptr;
      json value = Convert(fy_node_pair_value(pair), depth + 1);
      if (!error.empty()) return nullptr;
      if (key.is_structured()) {
        error = "a mapping key must be a plain value";
        line = LineOf(key_node);
        return nullptr;
      }
      const std::string name = key.is_string() ? key.get<std::string>() : key.dump();
      if (name == "<<" && value.is_object()) {
        for (auto& [k, v] : value.items()) {
          if (!out.contains(k)) out[k] = v;
        }
        continue;
      }
      out[name] = std::move(value);
    }
    return out;
  }
};

struct ParserDeleter {
  void operator()(fy_parser* p) const { fy_parser_destroy(p); }
};
struct DiagDeleter {
  void operator()(fy_diag* d) const { fy_diag_destroy(d); }
};

}  // namespace

YamlStream ParseYaml(std::string_view text) {
  YamlStream out;
  if (text.find('\0') != std::string_view::npos) {
    out.error = YamlError{1, 1, "the file contains a NUL byte: it is not YAML text"};
    return out;
  }
  // The library's scanner of directives does not come to an end on such bytes.
  if (FirstNotUtf8(text) != std::string_view::npos) {
    out.error = YamlError{1, 1, "the file contains a byte that is not UTF-8: it is not YAML text"};
    return out;
  }
  fy_diag_cfg diag_config;
  fy_diag_cfg_default(&diag_config);
  diag_config.fp = nullptr;
  diag_config.output_fn = [](fy_diag*, void*, const char*, size_t) {};
  std::unique_ptr<fy_diag, DiagDeleter> diag(fy_diag_create(&diag_config));
  if (!diag) {
    out.error = YamlError{0, 0, "out of memory"};
    return out;
  }
  fy_diag_set_collect_errors(diag.get(), true);
  fy_parse_cfg config{};
  config.search_path = "";
  config.flags = static_cast<fy_parse_cfg_flags>(FYPCF_QUIET | FYPCF_COLLECT_DIAG);
  config.diag = diag.get();
  std::unique_ptr<fy_parser, ParserDeleter> parser(fy_parser_create(&config));
  if (!parser || fy_parser_set_string(parser.get(), text.data(), text.size()) != 0) {
    out.error = YamlError{0, 0, "out of memory"};
    return out;
  }
  Converter converter;
  while (fy_document* document = fy_parse_load_document(parser.get())) {
    fy_node* root = fy_document_root(document);
    const int line = Converter::LineOf(root);
    json value = converter.Convert(root, 0);
    fy_parse_document_destroy(parser.get(), document);
    if (!converter.error.empty()) {
      out.error = YamlError{converter.line, 0, converter.error};
      return out;
    }
    if (!value.is_null()) {
      // Bytes that are not UTF-8 become U+FFFD here instead of an exception.
      out.documents.push_back(
          {line > 0 ? line : 1, value.dump(-1, ' ', false, json::error_handler_t::replace)});
    }
  }
  void* iterator = nullptr;
  if (fy_diag_error* error = fy_diag_errors_iterate(diag.get(), &iterator)) {
    out.error = YamlError{error->line, error->column, error->msg != nullptr ? error->msg : ""};
  } else if (fy_parser_get_stream_error(parser.get())) {
    out.error = YamlError{0, 0, "this is not YAML"};
  }
  return out;
}

namespace {

bool NeedsQuotes(const std::string& text) {
  if (text.empty()) return true;
  if (text.find_first_of(":#{}[],&*!|>'\"%@`\n\t\\") != std::string::npos) return true;
  if (text.front() == ' ' || text.back() == ' ' || text.front() == '-' || text.front() == '?' ||
      text.front() == '=') {
    return true;
  }
  if ((text[0] >= '0' && text[0] <= '9') || text[0] == '.' || text[0] == '+') return true;
  for (const char* word : {"true", "false", "null", "yes", "no", "on", "off", "~", "y", "n"}) {
    if (text.size() == std::char_traits<char>::length(word) &&
        std::equal(text.begin(), text.end(), word, [](char a, char b) {
          return std::tolower(static_cast<unsigned char>(a)) == b;
        })) {
      return true;
    }
  }
  for (char c : text) {
    if (static_cast<unsigned char>(c) < 0x20) return true;
  }
  return false;
}

std::string ScalarText(const json& value) {
  if (value.is_string()) {
    const std::string text = value.get<std::string>();
    if (!NeedsQuotes(text)) return text;
  }
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

void Emit(const json& value, int indent, std::string& out) {
  const std::string pad(static_cast<size_t>(indent), ' ');
  if (value.is_object() && !value.empty()) {
    for (auto& [key, item] : value.items()) {
      out += pad + ScalarText(json(key)) + ":";
      if (item.is_structured() && !item.empty()) {
        out += "\n";
        Emit(item, item.is_array() ? indent : indent + 2, out);
      } else {
        out += " ";
        Emit(item, 0, out);
      }
    }
  } else if (value.is_array() && !value.empty()) {
    for (const json& item : value) {
      if (item.is_structured() && !item.empty()) {
        std::string inner;
        Emit(item, indent + 2, inner);
        inner[static_cast<size_t>(indent)] = '-';  // "  key" becomes "- key"
        out += inner;
      } else {
        out += pad + "- ";
        Emit(item, 0, out);
      }
    }
  } else {
    out += ScalarText(value) + "\n";
  }
}

}  // namespace

std::string EmitYaml(const json& value) {
  std::string out;
  Emit(value, 0, out);
  return out;
}

}  // namespace qanat::local
