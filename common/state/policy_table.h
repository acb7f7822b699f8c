// SPDX-License-Identifier: Apache-2.0
// All policies of one snapshot, indexed by how they apply. Immutable once published; copied as a
// whole on a policy change (policies are few and change rarely).
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/model/authorization.h"
#include "common/state/snapshot.h"

namespace qanat::state {

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

struct MeshSnapshot::PolicyTable {
  std::map<std::string, model::PolicyPtr, std::less<>> by_name;
  std::unordered_map<std::string, std::vector<model::PolicyPtr>, StringHash, std::equal_to<>>
      by_namespace;  // scope NAMESPACE
  std::vector<model::PolicyPtr> global;
  // Removed by the server, with the serial of the removal: a workload that was sent before may
  // still name it, which is no reason to refuse.
  std::map<std::string, uint64_t, std::less<>> removed;
};

}  // namespace qanat::state
