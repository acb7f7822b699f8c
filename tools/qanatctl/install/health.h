// SPDX-License-Identifier: Apache-2.0
// Is it up, and if not, why and what to do: read from the objects' own status and from events.
// Pure.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace qanat::ctl {

struct Health {
  bool ready = false;
  int have = 0;  // pods that are ready and of the newest version
  int want = 0;
  std::string ToString() const;  // "1/2"
};

Health DeploymentHealth(const nlohmann::json& deployment);
Health DaemonSetHealth(const nlohmann::json& daemon_set);
bool CrdEstablished(const nlohmann::json& crd);
bool PodReady(const nlohmann::json& pod);

// Why a pod is not ready, with the remedy where there is a usual one; "" when it is ready. `events`
// are the namespace's warnings, in any order.
std::string PodProblem(const nlohmann::json& pod, const std::vector<nlohmann::json>& events);
// Why a workload has no pods at all (quota, admission): from the events on it and on what it owns.
std::string WorkloadProblem(const std::string& name, const std::vector<nlohmann::json>& events);

}  // namespace qanat::ctl
