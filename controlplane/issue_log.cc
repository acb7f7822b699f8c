// SPDX-License-Identifier: Apache-2.0
#include "controlplane/issue_log.h"

#include <fmt/format.h>

#include <set>
#include <string>
#include <utility>

#include "common/base/log.h"

namespace qanat::controlplane {
namespace {

// "shop.yaml:3: VirtualService shop/reviews: ", the parts that there are.
std::string Place(const Issue& issue) {
  std::string out = issue.file.empty() ? "" : fmt::format("{}:{}: ", issue.file, issue.line);
  if (!issue.object.empty()) out += issue.object + ": ";
  return out;
}

}  // namespace

IssueLog::IssueLog(metrics::Registry& registry)
    : count_(registry.AddGauge("qanat_source_issues", "Problems in the sources, by severity.",
                               {"severity"})) {}

void IssueLog::Report(std::vector<Issue> issues) {
  const std::set<Issue> now(issues.begin(), issues.end());
  const std::set<Issue> before(issues_.begin(), issues_.end());
  int64_t errors = 0;
  for (const Issue& issue : now) {
    const bool error = issue.severity == Issue::Severity::kError;
    errors += error ? 1 : 0;
    if (before.contains(issue)) continue;
    const std::string text = fmt::format("{}{}{}{}", Place(issue), issue.message,
                                         issue.remedy.empty() ? "" : " - ", issue.remedy);
    if (error) {
      LOG_ERROR("source", "{}", text);
    } else {
      LOG_WARN("source", "{}", text);
    }
  }
  for (const Issue& issue : before) {
    if (!now.contains(issue)) {
      LOG_INFO("source", "{}no longer: {}", Place(issue), issue.message);
    }
  }
  count_.With({"error"})->Set(errors);
  count_.With({"warning"})->Set(static_cast<int64_t>(now.size()) - errors);
  issues_ = std::move(issues);
}

}  // namespace qanat::controlplane
