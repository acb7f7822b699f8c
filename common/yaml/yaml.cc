// SPDX-License-Identifier: Apache-2.0
#include "common/yaml/yaml.h"

#include <fmt/format.h>
#include <libfyaml.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>

#include "common/base/utf8.h"

namespace qanat {
namespace {

constexpr size_t kMaxDepth = 60;         // the YAML library itself promises 64
constexpr size_t kMaxNodes = 1'000'000;  // aliases can multiply: a small text, a huge tree

struct ParserDelete {
  void operator()(fy_parser* parser) const { fy_parser_destroy(parser); }
};
struct DiagDelete {
  void operator()(fy_diag* diag) const { fy_diag_destroy(diag); }
};

std::string TokenText(fy_token* token) {
  if (token == nullptr) return {};
  size_t length = 0;
  const char* text = fy_token_get_text(token, &length);
  return text == nullptr ? std::string() : std::string(text, length);
}

bool PlainNull(std::string_view text) {
  return text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL";
}

struct Size {
  size_t nodes = 1;
  size_t depth = 0;  // of collections inside of each other
};

Size Measure(const YamlNode& node) {
  Size out;
  const auto add = [&out](const YamlNode& child) {
    const Size size = Measure(child);
    out.nodes += size.nodes;
    out.depth = std::max(out.depth, size.depth);
  };
  for (const YamlNode& item : node.items) add(item);
  for (const YamlEntry& entry : node.entries) add(entry.value);
  if (node.is_map() || node.is_sequence()) ++out.depth;
  return out;
}

// Builds the tree from parser events with an explicit stack of open collections.
class Builder {
 public:
  explicit Builder(YamlFile& out) : out_(out) {}

  // False ends the parse (an error was recorded).
  bool Take(const fy_event& event) {
    switch (event.type) {
      case FYET_DOCUMENT_START:
        anchors_.clear();
        stack_.clear();
        return true;
      case FYET_SCALAR: {
        YamlNode node = At(event.scalar.value);
        node.kind = YamlNode::Kind::kScalar;
        node.text = TokenText(event.scalar.value);
        const fy_scalar_style style =
            event.scalar.value == nullptr ? FYSS_PLAIN : fy_token_scalar_style(event.scalar.value);
        node.quoted = style != FYSS_PLAIN && style != FYSS_ANY;
        if (!node.quoted && PlainNull(node.text)) node.kind = YamlNode::Kind::kNull;
        Anchor(event.scalar.anchor, node);
        return Add(std::move(node));
      }
      case FYET_ALIAS: return Alias(event.alias.anchor);
      case FYET_SEQUENCE_START:
        return Open(YamlNode::Kind::kSequence, event.sequence_start.sequence_start,
                    event.sequence_start.anchor);
      case FYET_MAPPING_START:
        return Open(YamlNode::Kind::kMap, event.mapping_start.mapping_start,
                    event.mapping_start.anchor);
      case FYET_SEQUENCE_END:
      case FYET_MAPPING_END: {
        if (stack_.empty()) return true;
        Frame frame = std::move(stack_.back());
        stack_.pop_back();
        if (frame.key)
          return Error(frame.node.line, frame.node.column, "a key without a value", "");
        if (!frame.anchor.empty()) anchors_.insert_or_assign(frame.anchor, frame.node);
        return Add(std::move(frame.node));
      }
      case FYET_NONE:
      case FYET_STREAM_START:
      case FYET_STREAM_END:
      case FYET_DOCUMENT_END: return true;
    }
    return true;
  }

  bool Error(int line, int column, std::string message, std::string remedy) {
    out_.errors.push_back({line, column, std::move(message), std::move(remedy)});
    return false;
  }

 private:
  struct Frame {
    YamlNode node;
    std::string anchor;
    std::optional<YamlEntry> key;                    // a map that waits for the value of this key
    std::unordered_map<std::string, size_t> places;  // of a map: where its entries are, by key
  };

  YamlNode At(fy_token* token) {
    YamlNode node;
    if (const fy_mark* mark = token == nullptr ? nullptr : fy_token_start_mark(token)) {
      node.line = mark->line + 1;
      node.column = mark->column + 1;
      last_line_ = node.line;
    } else {
      node.line = last_line_;
    }
    return node;
  }

  void Anchor(fy_token* token, const YamlNode& node) {
    if (token != nullptr) anchors_.insert_or_assign(TokenText(token), node);
  }

  bool Open(YamlNode::Kind kind, fy_token* token, fy_token* anchor) {
    if (stack_.size() >= kMaxDepth) return TooDeep();
    Frame frame;
    frame.node = At(token);
    frame.node.kind = kind;
    if (anchor != nullptr) frame.anchor = TokenText(anchor);
    stack_.push_back(std::move(frame));
    return true;
  }

  bool Alias(fy_token* token) {
    const std::string name = TokenText(token);
    const auto it = anchors_.find(name);
    if (it == anchors_.end()) {
      return Error(last_line_, 1, fmt::format("alias *{} has no anchor &{} before it", name, name),
                   "define the anchor earlier in the same document");
    }
    const Size size = Measure(it->second);
    // Whoever reads the tree may do so by recursion.
    if (stack_.size() + size.depth > kMaxDepth) return TooDeep();
    nodes_ += size.nodes;
    if (nodes_ > kMaxNodes) {
      return Error(last_line_, 1, "aliases expand to more nodes than any real file has", "");
    }
    return Add(it->second);
  }

  bool TooDeep() {
    return Error(last_line_, 1, fmt::format("nested deeper than {} levels", kMaxDepth),
                 "no Kubernetes object needs that; check the indentation");
  }

  bool Add(YamlNode node) {
    if (++nodes_ > kMaxNodes) return Error(node.line, 1, "too many nodes in one file", "");
    if (stack_.empty()) {
      if (!node.is_null()) out_.documents.push_back(std::move(node));
      return true;
    }
    Frame& frame = stack_.back();
    if (frame.node.is_sequence()) {
      frame.node.items.push_back(std::move(node));
      return true;
    }
    if (!frame.key) {
      if (node.kind != YamlNode::Kind::kScalar) {
        return Error(node.line, node.column, "a key must be a plain string",
                     "quote it, or check the indentation");
      }
      frame.key = YamlEntry{std::move(node.text), node.line, {}, false};
      return true;
    }
    YamlEntry entry = std::move(*frame.key);
    frame.key.reset();
    if (entry.key == "<<" && (node.is_map() || node.is_sequence())) return Merge(frame, node);
    const auto [place, fresh] = frame.places.try_emplace(entry.key, frame.node.entries.size());
    entry.value = std::move(node);
    if (fresh) {
      frame.node.entries.push_back(std::move(entry));
      return true;
    }
    YamlEntry& other = frame.node.entries[place->second];
    if (!other.merged) {
      return Error(
          entry.line, 1,
          fmt::format("duplicate key \"{}\": first given in line {}", entry.key, other.line),
          "keep one of the two");
    }
    other = std::move(entry);
    return true;
  }

  bool Merge(Frame& into, const YamlNode& from) {
    if (from.is_sequence()) {
      for (const YamlNode& item : from.items) {
        if (!item.is_map()) return Error(item.line, item.column, "<< wants maps", "");
        Merge(into, item);
      }
      return true;
    }
    for (const YamlEntry& entry : from.entries) {
      if (!into.places.try_emplace(entry.key, into.node.entries.size()).second) continue;
      into.node.entries.push_back(entry);
      into.node.entries.back().merged = true;
    }
    return true;
  }

  YamlFile& out_;
  std::vector<Frame> stack_;
  std::map<std::string, YamlNode> anchors_;
  size_t nodes_ = 0;
  int last_line_ = 1;
};

void TakeDiagnostics(fy_diag* diag, YamlFile& out) {
  void* position = nullptr;
  while (fy_diag_error* error = fy_diag_errors_iterate(diag, &position)) {
    if (error->type != FYET_ERROR) continue;
    std::string message = error->msg == nullptr ? "not YAML" : error->msg;
    while (!message.empty() && message.back() == '\n') message.pop_back();
    std::string remedy = "correct the YAML at this line; the last good version stays in force";
    if (message.find("tab") != std::string::npos) remedy = "indent with spaces, not tabs";
    out.errors.push_back({error->line, error->column, std::move(message), remedy});
  }
}

}  // namespace

const YamlNode* YamlNode::Find(std::string_view key) const {
  for (const YamlEntry& entry : entries) {
    if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

std::string_view YamlNode::KindName() const {
  switch (kind) {
    case Kind::kNull: return "nothing";
    case Kind::kScalar: return "a single value";
    case Kind::kSequence: return "a list";
    case Kind::kMap: return "a map";
  }
  return "?";
}

YamlFile ParseYaml(std::string_view text) {
  YamlFile out;
  if (text.empty()) return out;
  const size_t nul = text.find('\0');
  // The library's scanner of directives does not come to an end on other bytes.
  const size_t bad = std::min(nul, FirstNotUtf8(text));
  if (bad != std::string_view::npos) {
    int line = 1;
    for (char c : text.substr(0, bad)) line += c == '\n' ? 1 : 0;
    out.errors.push_back({line, 1,
                          bad == nul ? "a NUL byte: this is not a text file"
                                     : "a byte that is not UTF-8: this is not a text file",
                          "save the file as UTF-8 text, or rename it"});
    return out;
  }
  fy_diag_cfg diag_config{};
  fy_diag_cfg_default(&diag_config);
  diag_config.fp = nullptr;
  diag_config.output_fn = [](fy_diag*, void*, const char*, size_t) {};
  std::unique_ptr<fy_diag, DiagDelete> diag(fy_diag_create(&diag_config));
  if (diag == nullptr) {
    out.errors.push_back({1, 1, "the YAML parser could not be made: out of memory", ""});
    return out;
  }
  fy_diag_set_collect_errors(diag.get(), true);
  fy_parse_cfg config{};
  config.search_path = "";
  config.flags = static_cast<fy_parse_cfg_flags>(FYPCF_COLLECT_DIAG | FYPCF_DISABLE_RECYCLING);
  config.diag = diag.get();
  std::unique_ptr<fy_parser, ParserDelete> parser(fy_parser_create(&config));
  if (parser == nullptr || fy_parser_set_string(parser.get(), text.data(), text.size()) != 0) {
    out.errors.push_back({1, 1, "the YAML parser could not be made: out of memory", ""});
    return out;
  }
  Builder builder(out);
  bool go_on = true;
  while (go_on) {
    fy_event* event = fy_parser_parse(parser.get());
    if (event == nullptr) break;
    go_on = builder.Take(*event) && event->type != FYET_STREAM_END;
    fy_parser_event_free(parser.get(), event);
  }
  if (fy_parser_get_stream_error(parser.get())) {
    const size_t before = out.errors.size();
    TakeDiagnostics(diag.get(), out);
    if (out.errors.size() == before) {
      out.errors.push_back({1, 1, "not YAML", "correct the file; the last good version stays"});
    }
  }
  return out;
}

}  // namespace qanat
