// SPDX-License-Identifier: Apache-2.0
#include "controlplane/source/json.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

namespace qanat::controlplane {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 60;
constexpr size_t kMaxNodes = 1'000'000;
constexpr size_t kSmallMap = 32;

// Under which key which keys are left out. The elements of a list are under the list's key.
struct Skipped {
  std::string_view parent;
  std::string_view key;
};
constexpr auto kSkipped = std::to_array<Skipped>({
    {"metadata", "managedFields"},
    {"annotations", "kubectl.kubernetes.io/last-applied-configuration"},
    {"spec", "volumes"},
    {"spec", "affinity"},
    {"spec", "tolerations"},
    {"spec", "securityContext"},
    {"spec", "ephemeralContainers"},
    {"containers", "env"},
    {"containers", "envFrom"},
    {"containers", "volumeMounts"},
    {"containers", "resources"},
    {"containers", "securityContext"},
    {"containers", "livenessProbe"},
    {"containers", "readinessProbe"},
    {"containers", "startupProbe"},
    {"initContainers", "env"},
    {"initContainers", "envFrom"},
    {"initContainers", "volumeMounts"},
    {"initContainers", "resources"},
    {"initContainers", "securityContext"},
    {"status", "containerStatuses"},
    {"status", "initContainerStatuses"},
    {"status", "images"},
});

bool IsSkipped(std::string_view parent, std::string_view key) {
  return std::any_of(kSkipped.begin(), kSkipped.end(), [&](const Skipped& skipped) {
    return skipped.key == key && skipped.parent == parent;
  });
}

class Builder : public nlohmann::json_sax<json> {
 public:
  bool null() override { return Add({}); }
  bool boolean(bool value) override { return Add(Scalar(value ? "true" : "false", false)); }
  bool number_integer(number_integer_t value) override {
    return Add(Scalar(std::to_string(value), false));
  }
  bool number_unsigned(number_unsigned_t value) override {
    return Add(Scalar(std::to_string(value), false));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Add(Scalar(text, false));
  }
  bool string(string_t& text) override { return Add(Scalar(std::move(text), true)); }
  bool binary(binary_t&) override { return Broken("binary data"); }

  bool start_object(std::size_t) override { return Open(YamlNode::Kind::kMap); }
  bool start_array(std::size_t) override { return Open(YamlNode::Kind::kSequence); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& text) override {
    if (skipping_ == 0) stack_.back().key = std::move(text);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Broken("not JSON at byte " + std::to_string(position));
  }

  YamlNode root;
  bool done = false;
  std::string error;

 private:
  struct Frame {
    YamlNode node;
    std::string name;  // the key that it stands under; a list's elements have the list's
    std::string key;   // of the value that comes next, in a map
    std::unordered_map<std::string, size_t> index;  // of a large map's entries
  };

  static YamlNode Scalar(std::string text, bool quoted) {
    YamlNode node;
    node.kind = YamlNode::Kind::kScalar;
    node.quoted = quoted;
    node.text = std::move(text);
    return node;
  }

  bool Broken(std::string what) {
    if (error.empty()) error = std::move(what);
    return false;
  }

  bool Open(YamlNode::Kind kind) {
    if (++depth_ > kMaxDepth) return Broken("nested deeper than any Kubernetes object");
    if (skipping_ > 0 || (!stack_.empty() && stack_.back().node.is_map() &&
                          IsSkipped(stack_.back().name, stack_.back().key))) {
      ++skipping_;
      return true;
    }
    Frame frame;
    frame.node.kind = kind;
    if (!stack_.empty()) {
      frame.name = stack_.back().node.is_map() ? stack_.back().key : stack_.back().name;
    }
    stack_.push_back(std::move(frame));
    return true;
  }

  bool Close() {
    --depth_;
    if (skipping_ > 0) {
      --skipping_;
      return true;
    }
    YamlNode node = std::move(stack_.back().node);
    stack_.pop_back();
    return Add(std::move(node));
  }

  bool Add(YamlNode node) {
    if (skipping_ > 0) return true;
    if (++nodes_ > kMaxNodes) return Broken("more nodes than any real object has");
    if (stack_.empty()) {
      root = std::move(node);
      done = true;
      return true;
    }
    Frame& frame = stack_.back();
    if (frame.node.is_sequence()) {
      frame.node.items.push_back(std::move(node));
      return true;
    }
    if (IsSkipped(frame.name, frame.key)) return true;
    if (YamlNode* earlier = Earlier(frame)) {
      *earlier = std::move(node);
      return true;
    }
    YamlEntry entry;
    entry.key = std::move(frame.key);
    entry.value = std::move(node);
    frame.node.entries.push_back(std::move(entry));
    return true;
  }

  // The value that the map has for this key already. Small maps are searched, large ones indexed.
  static YamlNode* Earlier(Frame& frame) {
    std::vector<YamlEntry>& entries = frame.node.entries;
    if (entries.size() < kSmallMap) {
      for (YamlEntry& entry : entries) {
        if (entry.key == frame.key) return &entry.value;
      }
      return nullptr;
    }
    if (frame.index.empty()) {
      for (size_t i = 0; i < entries.size(); ++i) frame.index.emplace(entries[i].key, i);
    }
    const auto [it, fresh] = frame.index.emplace(frame.key, entries.size());
    return fresh ? nullptr : &entries[it->second].value;
  }

  std::vector<Frame> stack_;
  size_t depth_ = 0;
  size_t nodes_ = 0;
  size_t skipping_ = 0;  // open collections inside something that is left out
};

}  // namespace

Result<YamlNode> ParseJsonObject(std::string_view text) {
  Builder builder;
  const bool parsed = json::sax_parse(text.begin(), text.end(), &builder);
  if (!parsed || !builder.done) {
    return Fail(Code::kInvalidArgument,
                builder.error.empty() ? std::string("not JSON") : builder.error);
  }
  if (!builder.root.is_map()) return Fail(Code::kInvalidArgument, "not a JSON object");
  return std::move(builder.root);
}

}  // namespace qanat::controlplane
