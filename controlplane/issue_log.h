// SPDX-License-Identifier: Apache-2.0
// Logs each problem of the sources when it appears and once more when it is gone, and counts them.
// On the control plane's loop.
#pragma once

#include <vector>

#include "common/metrics/registry.h"
#include "controlplane/source/issue.h"

namespace qanat::controlplane {

class IssueLog {
 public:
  explicit IssueLog(metrics::Registry& registry);
  void Report(std::vector<Issue> issues);  // all that there are now
  const std::vector<Issue>& issues() const { return issues_; }

 private:
  std::vector<Issue> issues_;
  metrics::Family<metrics::Gauge>& count_;
};

}  // namespace qanat::controlplane
