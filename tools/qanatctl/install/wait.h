// SPDX-License-Identifier: Apache-2.0
// Waiting for several things in a cluster at once, saying what is waited for and why each is not
// there yet. Thread: any; blocks.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "tools/qanatctl/install/api.h"

namespace qanat::ctl {

struct Step {
  bool done = false;
  std::string detail;  // how far, or why not
};
struct Goal {
  std::string title;
  std::function<Result<Step>()> look;
};

// Time, and where lines go: a test has its own.
struct Pace {
  std::function<std::chrono::steady_clock::time_point()> now;
  std::function<void(std::chrono::milliseconds)> sleep;
  std::function<void(const std::string& line)> say;
  static Pace Real();  // standard output
};

// Looks twice a second. A goal is told when its detail changes, and when it is reached. What the
// server refuses (401, 403) ends the wait, other errors are details.
Status WaitFor(const std::vector<Goal>& goals, std::chrono::seconds timeout, const Pace& pace);

// How far a Deployment or DaemonSet is, and why no further: what each of its pods waits for.
// `object` is the workload as the server has it.
Result<Step> LookAtWorkload(const Api& api, const kube::Resource& resource, const std::string& ns,
                            const std::string& name, const nlohmann::json& object);
Goal WorkloadReady(const Api& api, const kube::Resource& resource, const std::string& ns,
                   const std::string& name);
Goal CrdReady(const Api& api, const std::string& name);
// The workload and its pods are gone (it was deleted in the foreground).
Goal WorkloadGone(const Api& api, const kube::Resource& resource, const std::string& ns,
                  const std::string& name);
Goal Exists(const Api& api, const kube::Resource& resource, const std::string& ns,
            const std::string& name);

}  // namespace qanat::ctl
