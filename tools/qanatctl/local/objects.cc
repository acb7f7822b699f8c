// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/objects.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "tools/qanatctl/local/files.h"
#include "tools/qanatctl/local/yaml.h"

namespace qanat::local {
namespace {

using nlohmann::json;

std::string StringOf(const json& object, const char* key) {
  if (!object.is_object()) return {};
  auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

bool ClusterWide(const std::string& kind) {
  static const std::set<std::string> kinds = {"Namespace",          "Node",
                                              "GatewayClass",       "ClusterRole",
                                              "ClusterRoleBinding", "CustomResourceDefinition"};
  return kinds.contains(kind);
}

void AddObject(const json& body, const std::string& file, int line, FileObjects& out) {
  if (!body.is_object()) {
    out.problems.push_back({file, line, "", "a document must be a mapping with apiVersion and kind",
                            "start the document with 'apiVersion:' and 'kind:'"});
    return;
  }
  Object object;
  object.api_version = StringOf(body, "apiVersion");
  object.kind = StringOf(body, "kind");
  if (object.kind == "List" && body.contains("items") && body["items"].is_array()) {
    for (const json& item : body["items"]) AddObject(item, file, line, out);
    return;
  }
  const json metadata = body.value("metadata", json::object());
  object.name = StringOf(metadata, "name");
  object.ns = StringOf(metadata, "namespace");
  if (object.kind.empty() || object.name.empty()) {
    out.problems.push_back({file, line, object.kind, "kind or metadata.name is missing",
                            "every object needs 'kind:' and 'metadata: {name: ...}'"});
    return;
  }
  if (ClusterWide(object.kind)) {
    object.ns.clear();
  } else if (object.ns.empty()) {
    object.ns = "default";
  }
  object.file = file;
  object.line = line;
  object.body = std::make_shared<const json>(body);
  out.objects.push_back(std::move(object));
}

}  // namespace

std::string FileProblem::ToString() const {
  std::string out = fmt::format("{}:{}: ", file, line);
  if (!object.empty()) out += object + ": ";
  out += message;
  if (!remedy.empty()) out += " (" + remedy + ")";
  return out;
}

FileObjects ParseObjects(std::string_view text, const std::string& file) {
  FileObjects out;
  YamlStream stream = ParseYaml(text);
  for (const YamlDocument& document : stream.documents) {
    AddObject(json::parse(document.json, nullptr, false), file, document.line, out);
  }
  if (stream.error) {
    out.parsed = false;
    out.problems.push_back({file, stream.error->line, "", stream.error->message,
                            "correct the YAML; until then this file's last good state is used"});
  }
  return out;
}

Result<std::vector<std::string>> ListYamlFiles(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::is_regular_file(path, error)) return std::vector<std::string>{path};
  if (!fs::is_directory(path, error)) {
    return Fail(Code::kNotFound, fmt::format("{}: no such folder or file; give the folder that "
                                             "holds the mesh's YAML",
                                             path));
  }
  std::vector<std::string> out;
  for (fs::recursive_directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    const std::string extension = it->path().extension();
    const std::string name = it->path().filename();
    if (name.starts_with('.')) {
      if (it->is_directory(error)) it.disable_recursion_pending();
      continue;
    }
    if (extension != ".yaml" && extension != ".yml" && extension != ".json") continue;
    if (name == "kustomization.yaml" || name == "kustomization.yml") continue;
    if (it->is_regular_file(error)) out.push_back(it->path().string());
  }
  if (error) return Fail(Code::kIo, fmt::format("cannot list {}: {}", path, error.message()));
  std::sort(out.begin(), out.end());
  return out;
}

Status ObjectFolder::Reload() {
  QANAT_ASSIGN_OR_RETURN(auto names, ListYamlFiles(path_));
  std::map<std::string, FileObjects> next;
  for (const std::string& name : names) {
    Result<std::string> text = ReadFile(name);
    if (!text) continue;  // gone between the listing and now: the next change event settles it
    FileObjects read = ParseObjects(*text, name);
    if (!read.parsed) {
      auto before = files_.find(name);
      if (before != files_.end()) read.objects = before->second.objects;
    }
    next[name] = std::move(read);
  }
  files_ = std::move(next);
  return {};
}

std::vector<Object> ObjectFolder::Objects() const {
  std::vector<Object> out;
  for (const auto& [name, file] : files_) {
    out.insert(out.end(), file.objects.begin(), file.objects.end());
  }
  return out;
}

std::vector<FileProblem> ObjectFolder::Problems() const {
  std::vector<FileProblem> out;
  for (const auto& [name, file] : files_) {
    out.insert(out.end(), file.problems.begin(), file.problems.end());
  }
  return out;
}

}  // namespace qanat::local
