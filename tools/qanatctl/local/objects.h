// SPDX-License-Identifier: Apache-2.0
// Kubernetes objects as they lie in a folder of YAML. Reading is tolerant per file: a file that
// does not parse is reported and its last good objects stay (the caller keeps them).
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace qanat::local {

struct Object {
  std::string api_version;
  std::string kind;
  std::string ns;  // "default" when a namespaced object names none, "" for cluster-wide kinds
  std::string name;
  std::string file;
  int line = 0;
  std::shared_ptr<const nlohmann::json> body;
};

struct FileProblem {
  std::string file;
  int line = 0;
  std::string object;  // "Deployment shop/frontend", may be empty
  std::string message;
  std::string remedy;
  std::string ToString() const;
};

struct FileObjects {
  std::vector<Object> objects;
  std::vector<FileProblem> problems;
  bool parsed = true;  // false: keep what this file gave before
};

// Pure. Lists (kind: List) are taken apart.
FileObjects ParseObjects(std::string_view text, const std::string& file);

// The .yaml, .yml and .json files below `path` (or `path` itself when it is a file), sorted.
Result<std::vector<std::string>> ListYamlFiles(const std::string& path);

// A folder with memory: Reload() reads what changed and keeps the last good content of a file that
// has become unreadable.
class ObjectFolder {
 public:
  explicit ObjectFolder(std::string path) : path_(std::move(path)) {}
  Status Reload();
  std::vector<Object> Objects() const;
  std::vector<FileProblem> Problems() const;

 private:
  std::string path_;
  std::map<std::string, FileObjects> files_;
};

}  // namespace qanat::local
