// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/inspect/features.h"

#include <nlohmann/json.hpp>

#include "tools/qanatctl/json_util.h"
#include "tools/qanatctl/table.h"

namespace qanat::ctl {
namespace {

// An agent of another version may say less of a feature than we ask for.
std::string Instead(const Json& feature) {
  if (Bool(feature, "present")) return "";
  const std::string instead = Str(feature, "instead");
  return instead.empty() ? "nothing" : instead;
}

}  // namespace

std::string FeaturesTable(const Json& nodes) {
  Table table({"NODE", "KERNEL", "FEATURE", "THERE", "WHAT IT DOES", "INSTEAD"});
  for (const auto& [node, said] : nodes.items()) {
    const Json features = said.value("features", Json::object());
    for (const auto& [name, feature] : features.items())
      table.Add({node, Str(said, "kernel"), name,
                 Bool(feature, "present")     ? "yes"
                 : Bool(feature, "forbidden") ? "not allowed"
                                              : "no",
                 Str(feature, "why"), Instead(feature)});
  }
  return table.ToString();
}

}  // namespace qanat::ctl
