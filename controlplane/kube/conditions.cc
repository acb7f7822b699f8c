// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/conditions.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace qanat::controlplane {
namespace {

using nlohmann::json;

constexpr size_t kLongestMessage = 4000;  // the API allows 32768; people read less

// What we ever write: one of these that is there and not wanted is an old one of ours.
constexpr auto kOurTypes = std::to_array<std::string_view>(
    {"Applied", "ResolvedRefs", "WaypointAccepted", "ZtunnelAccepted", "istio.io/WaypointBound",
     "qanat.io/Understood"});

const YamlNode* FindCondition(const YamlNode* list, std::string_view type) {
  if (list == nullptr) return nullptr;
  for (const YamlNode& item : list->items) {
    if (TextAt(&item, "type") == type) return &item;
  }
  return nullptr;
}

std::string Shortened(std::string text) {
  if (text.size() <= kLongestMessage) return text;
  text.resize(kLongestMessage);
  // Not in the middle of a character.
  while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0xC0) == 0x80) {
    text.pop_back();
  }
  if (!text.empty() && (static_cast<unsigned char>(text.back()) & 0x80) != 0) text.pop_back();
  return text + "...";
}

}  // namespace

std::string Rfc3339Now() {
  return fmt::format(
      "{:%Y-%m-%dT%H:%M:%SZ}",
      fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

json ToJson(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull: return nullptr;
    case YamlNode::Kind::kScalar: {
      if (node.quoted) return node.text;
      json value = json::parse(node.text, nullptr, false);
      return value.is_discarded() ? json(node.text) : value;
    }
    case YamlNode::Kind::kSequence: {
      json out = json::array();
      for (const YamlNode& item : node.items) out.push_back(ToJson(item));
      return out;
    }
    case YamlNode::Kind::kMap: {
      json out = json::object();
      for (const YamlEntry& entry : node.entries) out[entry.key] = ToJson(entry.value);
      return out;
    }
  }
  return nullptr;
}

std::string ToText(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

const YamlNode* At(const YamlNode* node, std::string_view key) {
  return node == nullptr ? nullptr : node->Find(key);
}

std::string TextAt(const YamlNode* node, std::string_view key) {
  const YamlNode* found = At(node, key);
  return found == nullptr ? std::string() : found->text;
}

std::vector<StatusCondition> OnePerType(const std::vector<StatusCondition>& conditions) {
  std::vector<StatusCondition> out;
  for (const StatusCondition& c : conditions) {
    const auto same = std::find_if(
        out.begin(), out.end(), [&](const StatusCondition& other) { return other.type == c.type; });
    if (same == out.end()) {
      out.push_back(c);
      continue;
    }
    if (same->status && !c.status) {
      same->status = false;
      same->reason = c.reason;
    }
    if (same->message.find(c.message) == std::string::npos) same->message += "; " + c.message;
  }
  return out;
}

json ConditionsJson(const std::vector<StatusCondition>& wanted, int64_t generation,
                    const YamlNode* observed, const std::string& now) {
  json out = json::array();
  for (const StatusCondition& c : wanted) {
    const char* status = c.status ? "True" : "False";
    const YamlNode* before = FindCondition(observed, c.type);
    std::string since = TextAt(before, "lastTransitionTime");
    if (since.empty() || TextAt(before, "status") != status) since = now;
    json condition = {{"type", c.type},
                      {"status", status},
                      {"reason", c.reason},
                      {"message", Shortened(c.message)},
                      {"lastTransitionTime", since}};
    if (generation > 0) condition["observedGeneration"] = generation;
    out.push_back(std::move(condition));
  }
  return out;
}

bool ConditionsThere(const json& wanted, const YamlNode* observed) {
  for (const json& condition : wanted) {
    const std::string type = condition["type"].get<std::string>();
    const YamlNode* there = FindCondition(observed, type);
    if (there == nullptr) return false;
    for (const char* key : {"status", "reason", "message"}) {
      if (TextAt(there, key) != condition[key].get_ref<const std::string&>()) return false;
    }
    // A schema without this field has dropped it.
    const YamlNode* generation = At(there, "observedGeneration");
    if (generation != nullptr && condition.contains("observedGeneration") &&
        generation->text != std::to_string(condition["observedGeneration"].get<int64_t>())) {
      return false;
    }
  }
  if (observed == nullptr) return true;
  return std::none_of(observed->items.begin(), observed->items.end(), [&](const YamlNode& item) {
    const std::string type = TextAt(&item, "type");
    if (std::find(kOurTypes.begin(), kOurTypes.end(), type) == kOurTypes.end()) return false;
    return std::none_of(wanted.begin(), wanted.end(),
                        [&](const json& condition) { return condition["type"] == type; });
  });
}

}  // namespace qanat::controlplane
