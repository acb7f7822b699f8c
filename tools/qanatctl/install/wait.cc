// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/install/wait.h"

#include <fmt/format.h>

#include <cstdio>
#include <set>
#include <thread>
#include <utility>

#include "tools/qanatctl/install/health.h"
#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {

using std::chrono::milliseconds;

}  // namespace

Pace Pace::Real() {
  return {[] { return std::chrono::steady_clock::now(); },
          [](milliseconds time) { std::this_thread::sleep_for(time); },
          [](const std::string& line) {
            std::fputs((line + "\n").c_str(), stdout);
            std::fflush(stdout);
          }};
}

Status WaitFor(const std::vector<Goal>& goals, std::chrono::seconds timeout, const Pace& pace) {
  const auto end = pace.now() + timeout;
  std::vector<std::string> last(goals.size());
  std::vector<bool> done(goals.size());
  while (true) {
    bool all = true;
    for (size_t i = 0; i < goals.size(); ++i) {
      if (done[i]) continue;
      Result<Step> step = goals[i].look();
      if (!step && (step.error().code == Code::kPermissionDenied ||
                    step.error().code == Code::kUnauthenticated)) {
        return Fail(std::move(step.error()));
      }
      if (!step) step = Step{false, step.error().message};
      done[i] = step->done;
      all = all && done[i];
      const bool changed = step->detail != last[i];
      last[i] = step->detail;
      if (!step->done && (!changed || step->detail.empty())) continue;
      pace.say(fmt::format("  {} {}{}{}", step->done ? "ok  " : "... ", goals[i].title,
                           step->detail.empty() ? "" : ": ", step->detail));
    }
    if (all) return {};
    if (pace.now() >= end) break;
    pace.sleep(milliseconds(500));
  }
  std::string missing;
  for (size_t i = 0; i < goals.size(); ++i) {
    if (!done[i]) missing += fmt::format("\n  {}: {}", goals[i].title, last[i]);
  }
  return Fail(Code::kDeadlineExceeded,
              fmt::format("after {} s this is still missing (--timeout waits longer; what was "
                          "applied stays):{}",
                          timeout.count(), missing));
}

Result<Step> LookAtWorkload(const Api& api, const kube::Resource& resource, const std::string& ns,
                            const std::string& name, const Json& object) {
  const bool per_node = resource.kind == "DaemonSet";
  const Health health = per_node ? DaemonSetHealth(object) : DeploymentHealth(object);
  Step out{health.ready, fmt::format("{} ready", health.ToString())};
  if (health.ready) return out;
  QANAT_ASSIGN_OR_RETURN(const std::vector<Json> pods, api.List(kinds::Pods(), ns, "app=" + name));
  QANAT_ASSIGN_OR_RETURN(const std::vector<Json> events,
                         api.List(kinds::Events(), ns, "", "type=Warning"));
  std::set<std::string> told;  // the same reason on many nodes is one reason
  for (const Json& pod : pods) {
    const std::string problem = PodProblem(pod, events);
    if (problem.empty() || !told.insert(problem).second || told.size() > 3) continue;
    const std::string node = Str(Get(pod, "spec"), "nodeName");
    out.detail += fmt::format("; {}: {}", node.empty() ? "no node" : node, problem);
  }
  if (pods.empty()) {
    std::string problem = WorkloadProblem(name, events);
    if (problem.empty()) {
      problem = per_node ? "no node for it yet" : "no pod yet";
    }
    out.detail += "; " + problem;
  }
  return out;
}

Goal WorkloadReady(const Api& api, const kube::Resource& resource, const std::string& ns,
                   const std::string& name) {
  return {resource.kind + " " + name, [&api, resource, ns, name]() -> Result<Step> {
            QANAT_ASSIGN_OR_RETURN(const std::optional<Json> object, api.Find(resource, ns, name));
            if (!object) return Step{false, "does not exist"};
            return LookAtWorkload(api, resource, ns, name, *object);
          }};
}

Goal CrdReady(const Api& api, const std::string& name) {
  return {"CRD " + name, [&api, name]() -> Result<Step> {
            QANAT_ASSIGN_OR_RETURN(const std::optional<Json> crd,
                                   api.Find(kinds::Crds(), "", name));
            return Step{crd && CrdEstablished(*crd), crd ? "" : "does not exist"};
          }};
}

Goal WorkloadGone(const Api& api, const kube::Resource& resource, const std::string& ns,
                  const std::string& name) {
  return {fmt::format("{} {} is gone", resource.kind, name),
          [&api, resource, ns, name]() -> Result<Step> {
            QANAT_ASSIGN_OR_RETURN(const std::optional<Json> object, api.Find(resource, ns, name));
            QANAT_ASSIGN_OR_RETURN(const std::vector<Json> pods,
                                   api.List(kinds::Pods(), ns, "app=" + name));
            Step out{!object && pods.empty(), ""};
            std::string nodes;
            for (const Json& pod : pods) nodes += " " + Str(Get(pod, "spec"), "nodeName");
            if (!pods.empty()) out.detail = "still ending on" + nodes;
            return out;
          }};
}

Goal Exists(const Api& api, const kube::Resource& resource, const std::string& ns,
            const std::string& name) {
  return {resource.kind + " " + name, [&api, resource, ns, name]() -> Result<Step> {
            QANAT_ASSIGN_OR_RETURN(const std::optional<Json> object, api.Find(resource, ns, name));
            return Step{object.has_value(), object ? "" : "not written yet"};
          }};
}

}  // namespace qanat::ctl
