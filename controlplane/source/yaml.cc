// SPDX-License-Identifier: Apache-2.0
#include "controlplane/source/yaml.h"

#include <fmt/format.h>
#include <libfyaml.h>

#include <map>
#include <memory>
#include <optional>
#include <utility>

namespace qanat::controlplane {
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

size_t CountNodes(const YamlNode& node) {
  size_t count = 1;
  for (const YamlNode& item : node.items) count += CountNodes(item);
  for (const YamlEntry& entry : node.entries) count += CountNodes(entry.value);
  return count;
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
    std::optional<YamlEntry> key;  // a map that waits for the value of this key
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
    if (stack_.size() >= kMaxDepth) {
      return Error(last_line_, 1, fmt::format("nested deeper than {} levels", kMaxDepth),
                   "no Kubernetes object needs that; check the indentation");
    }
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
    nodes_ += CountNodes(it->second);
    if (nodes_ > kMaxNodes) {
      return Error(last_line_, 1, "aliases expand to more nodes than any real file has", "");
    }
    return Add(it->second);
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
    if (entry.key == "<<" && (node.is_map() || node.is_sequence())) return Merge(frame.node, node);
    for (YamlEntry& other : frame.node.entries) {
      if (other.key != entry.key) continue;
      if (other.merged) {
        entry.value = std::move(node);
        other = std::move(entry);
        return true;
      }
      return Error(
          entry.line, 1,
          fmt::format("duplicate key \"{}\": first given in line {}", entry.key, other.line),
          "keep one of the two");
    }
    entry.value = std::move(node);
    frame.node.entries.push_back(std::move(entry));
    return true;
  }

  bool Merge(YamlNode& into, const YamlNode& from) {
    if (from.is_sequence()) {
      for (const YamlNode& item : from.items) {
        if (!item.is_map()) return Error(item.line, item.column, "<< wants maps", "");
        Merge(into, item);
      }
      return true;
    }
    for (const YamlEntry& entry : from.entries) {
      if (into.Find(entry.key) != nullptr) continue;
      into.entries.push_back(entry);
      into.entries.back().merged = true;
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
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    int line = 1;
    for (char c : text.substr(0, nul)) line += c == '\n' ? 1 : 0;
    out.errors.push_back({line, 1, "a NUL byte: this is not a text file",
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

}  // namespace qanat::controlplane
