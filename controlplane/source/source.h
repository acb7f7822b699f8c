// SPDX-License-Identifier: Apache-2.0
// Where objects come from: a folder of YAML, later a Kubernetes API server. Lives on the control
// plane's loop.
#pragma once

#include <functional>
#include <vector>

#include "common/base/result.h"
#include "controlplane/model/world.h"
#include "controlplane/source/issue.h"

namespace qanat::controlplane {

struct SourceSnapshot {
  Objects objects;
  std::vector<ObjectMeta> others;  // kinds that are known and left alone
  std::vector<Issue> issues;       // what is wrong now, in a stable order
};

class Source {
 public:
  virtual ~Source() = default;
  // Reads everything once, then calls `on_change` (never from inside Start) whenever a new
  // Snapshot() would differ.
  virtual Status Start(std::function<void()> on_change) = 0;
  virtual SourceSnapshot Snapshot() const = 0;
  // Takes in at once what is known to have changed, instead of a moment later: before a decision
  // that a pod's absence would turn into a refusal.
  virtual void CatchUp() = 0;
};

}  // namespace qanat::controlplane
