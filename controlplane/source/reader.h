// SPDX-License-Identifier: Apache-2.0
// Typed reading of YAML maps. Each key is taken once; what is left at Finish() is an unknown field.
// Every wrong type or value becomes an Issue with the line where it stands. Pure; any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/yaml/yaml.h"
#include "controlplane/model/gateway_api.h"
#include "controlplane/model/meta.h"
#include "controlplane/source/issue.h"

namespace qanat::controlplane {

// Where the issues of one object go.
struct ReadContext {
  std::string file;
  std::string object;
  std::vector<Issue> issues;
  bool failed = false;  // an error that makes the object useless

  void Error(int line, std::string message, std::string remedy = {});
  void Warn(int line, std::string message, std::string remedy = {});
};

class MapReader {
 public:
  // `node` may be nullptr or null: an empty map. With `unknown`, what cannot be understood is
  // added there and reported, and the object stays usable: the way of policies, which must fail
  // closed in that part and nowhere else.
  MapReader(const YamlNode* node, std::string path, ReadContext& context,
            std::vector<std::string>* unknown = nullptr);

  bool present() const { return node_ != nullptr && !node_->is_null(); }
  int line() const { return line_; }
  const std::string& path() const { return path_; }
  ReadContext& context() { return context_; }

  const YamlNode* Take(std::string_view key);  // nullptr when absent or null
  std::string String(std::string_view key);    // "" when absent
  bool Bool(std::string_view key, bool otherwise = false);
  std::optional<bool> MaybeBool(std::string_view key);
  std::optional<int64_t> Int(std::string_view key, int64_t least, int64_t most);
  std::optional<double> Number(std::string_view key, double least, double most);
  uint16_t Port(std::string_view key);  // 0 when absent
  std::optional<Millis> Duration(std::string_view key);
  std::vector<std::string> Strings(std::string_view key);
  Labels StringMap(std::string_view key);
  std::vector<const YamlNode*> Items(std::string_view key);  // elements of a list
  MapReader Map(std::string_view key);
  // Known to the API, without a meaning here: neither read nor complained about.
  void Ignore(std::initializer_list<std::string_view> keys);
  // Known to the API and meant to do something that this mesh does not do yet.
  void NotServed(std::string_view key, std::string_view remedy);
  void Finish();

  void Bad(int line, std::string_view key, std::string message, std::string remedy = {});
  std::string PathOf(std::string_view key) const;

 private:
  const YamlNode* node_;
  std::string path_;
  ReadContext& context_;
  std::vector<std::string>* unknown_;
  std::set<std::string, std::less<>> taken_;
  int line_ = 0;
};

// A scalar as text; an unquoted number or boolean is taken with a warning, since an API server
// refuses it where a string is wanted.
std::optional<std::string> ScalarText(const YamlNode& node);
// Go's form: "1h2m", "1.5s", "100ms". Rounded up to whole milliseconds; nullopt when malformed.
std::optional<Millis> ParseDuration(std::string_view text);
bool ValidName(std::string_view name);       // DNS-1123 subdomain
bool ValidNamespace(std::string_view name);  // DNS-1123 label

}  // namespace qanat::controlplane
