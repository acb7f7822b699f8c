// SPDX-License-Identifier: Apache-2.0
// What every object of the normalised model carries: names, labels, and where it was written, so
// that each message can name file and line. Plain values; immutable once they are in a World.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qanat::controlplane {

struct SourceLocation {
  std::string file;  // "" for an object of an API server, or one that we made ourselves
  int line = 0;      // 1-based; 0 when unknown
  // "" for an object of an API server: its name is its place.
  std::string ToString() const { return file.empty() ? "" : file + ":" + std::to_string(line); }
};

struct NamespacedName {
  std::string ns;
  std::string name;
  std::string ToString() const { return ns + "/" + name; }
  auto operator<=>(const NamespacedName&) const = default;
};

using Labels = std::map<std::string, std::string>;

struct OwnerReference {
  std::string kind;
  std::string name;
  std::string uid;
  bool controller = false;
};

struct ObjectMeta {
  std::string api_version;  // as written
  std::string kind;
  std::string name;
  std::string ns;  // "" for cluster-scoped kinds; "default" where the YAML names none
  std::string uid;
  std::string generate_name;
  Labels labels;
  Labels annotations;
  std::vector<OwnerReference> owners;
  int64_t generation = 0;    // of the spec, as an API server counts; 0 when it does not
  bool terminating = false;  // deletionTimestamp is set
  // Seconds since the epoch when the YAML says so (creationTimestamp); else the order in which
  // the objects were read decides who is older.
  int64_t creation_time = 0;
  uint64_t read_order = 0;
  SourceLocation location;

  NamespacedName key() const { return {ns, name}; }
  const std::string* Label(std::string_view key) const;
  const std::string* Annotation(std::string_view key) const;
};

// True when `a` is the older object: precedence among policies and routes.
bool OlderThan(const ObjectMeta& a, const ObjectMeta& b);

// matchLabels and matchExpressions of Kubernetes. An empty selector matches everything.
struct LabelSelector {
  enum class Operator { kIn, kNotIn, kExists, kDoesNotExist };
  struct Expression {
    std::string key;
    Operator op = Operator::kIn;
    std::vector<std::string> values;
  };
  Labels match_labels;
  std::vector<Expression> match_expressions;
  bool empty() const { return match_labels.empty() && match_expressions.empty(); }
  bool Matches(const Labels& labels) const;
};

bool LabelsContain(const Labels& labels, const Labels& wanted);

// targetRefs of policies.
struct TargetRef {
  std::string group;  // "" is core
  std::string kind;
  std::string name;
  std::string ns;  // "" is the policy's own; another one never matches
};

}  // namespace qanat::controlplane
