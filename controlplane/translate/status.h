// SPDX-License-Identifier: Apache-2.0
// What became of each object: conditions with stock istiod's types and reasons where it has them,
// and the problems that only show when objects are seen together. Pure.
#pragma once

#include <string>
#include <vector>

#include "controlplane/model/world.h"
#include "controlplane/source/issue.h"

namespace qanat::controlplane {

struct StatusCondition {
  std::string type;
  bool status = true;
  std::string reason;
  std::string message;
};

struct ObjectStatus {
  std::string kind;
  NamespacedName name;
  SourceLocation location;
  int64_t generation = 0;  // of the object that the conditions speak of
  // Of an HTTPRoute: one Accepted per parent, in their order, then what holds for all parents.
  std::vector<StatusCondition> conditions;
};

std::vector<ObjectStatus> BuildStatus(const World& world);

// A Service port whose name no pod has, a subset that selects no pod, a route to a service that
// does not exist, ...: file, line, object, message, remedy.
std::vector<Issue> CheckWorld(const World& world);

}  // namespace qanat::controlplane
