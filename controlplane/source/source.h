// SPDX-License-Identifier: Apache-2.0
// Where objects come from: a folder of YAML (folder.h) or a Kubernetes API server
// (controlplane/kube/kube_source.h). Lives on the control plane's loop.
#pragma once

#include <functional>
#include <string>
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
  // Everything has been read once. A source for which that takes a while returns from Start before
  // it and calls `on_change` when it is so; until then a Snapshot() holds nothing but issues that
  // count.
  virtual bool synced() const { return true; }
  virtual std::string WaitingFor() const { return {}; }  // while it is not, for people
  virtual SourceSnapshot Snapshot() const = 0;
  // Takes in at once what is known to have changed, instead of a moment later: before a decision
  // that a pod's absence would turn into a refusal.
  virtual void CatchUp() = 0;
};

}  // namespace qanat::controlplane
