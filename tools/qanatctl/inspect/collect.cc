// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/inspect/collect.h"

#include <fmt/format.h>

#include <cctype>
#include <cstdio>
#include <map>

#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {
constexpr uint16_t kControlPlanePort = 8080;
}

std::string Encode(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '.' || c == '_') {
      out += c;
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

Result<Collected> AskNodes(const MeshView& view, const std::string& node, uint16_t port,
                           const std::string& path) {
  if (!Bool(view.raw(), "mesh")) {
    return Fail(Code::kFailedPrecondition,
                "this is a run without the mesh (local up --no-mesh): there is nobody to ask");
  }
  QANAT_ASSIGN_OR_RETURN(auto nodes, view.SelectNodes(node));
  Collected out;
  for (const NodeRef& n : nodes) {
    auto text = view.Fetch(n.netns, port, path);
    if (!text) {
      out.failures.push_back(n.name + ": " + text.error().message);
      continue;
    }
    Json json = Json::parse(*text, nullptr, false);
    if (json.is_discarded()) {
      out.failures.push_back(n.name + ": " + path + ": the answer is not JSON");
      continue;
    }
    out.answers.push_back({n.name, std::move(json)});
  }
  if (out.answers.empty() && !out.failures.empty()) {
    return Fail(Code::kUnavailable, out.failures.front() + "; see: qanatctl status");
  }
  return out;
}

Result<Json> AskControlPlane(const MeshView& view, const std::string& path) {
  Error last{Code::kUnavailable, "no control plane runs; see: qanatctl status", 0};
  for (const std::string& where : view.control_planes()) {
    auto text = view.Fetch(where, kControlPlanePort, path);
    if (!text) {
      last = text.error();
      continue;
    }
    Json json = Json::parse(*text, nullptr, false);
    if (!json.is_discarded()) return json;
    last = Error{Code::kInternal, "control plane " + path + ": the answer is not JSON", 0};
  }
  return Fail(std::move(last));
}

Result<Json> AskControlPlanes(const MeshView& view, const std::string& path, const char* list) {
  Json out = Json::array();
  bool any = false;
  Error last{Code::kUnavailable, "no control plane runs; see: qanatctl status", 0};
  for (const std::string& where : view.control_planes()) {
    auto text = view.Fetch(where, kControlPlanePort, path);
    const Json json = text ? Json::parse(*text, nullptr, false) : Json();
    if (!text) {
      last = text.error();
      continue;
    }
    any = true;
    for (const Json& entry : json.is_array() ? json : Items(json, list)) out.push_back(entry);
  }
  if (!any) return Fail(std::move(last));
  return out;
}

bool TellFailures(const Collected& collected) {
  for (const std::string& failure : collected.failures) {
    std::fprintf(stderr, "qanatctl: no answer from %s\n", failure.c_str());
  }
  return collected.failures.empty();
}

std::vector<Json> Merge(const Collected& collected, const char* list,
                        const std::vector<const char*>& key) {
  std::map<std::string, Json> merged;
  for (const NodeAnswer& answer : collected.answers) {
    for (const Json& entry : Items(answer.json, list)) {
      std::string id;
      for (const char* field : key) id += Str(entry, field) + "\n";
      merged.emplace(id, entry);
    }
  }
  std::vector<Json> out;
  for (auto& [id, entry] : merged) out.push_back(std::move(entry));
  return out;
}

}  // namespace qanat::ctl
