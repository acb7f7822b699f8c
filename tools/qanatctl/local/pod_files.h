// SPDX-License-Identifier: Apache-2.0
// What a pod's containers find on disk: service account tokens, ConfigMaps, Secrets, scratch
// volumes. Written below the pod's directory, which is not there for others to read.
#pragma once

#include <string>

#include "common/base/result.h"
#include "tools/qanatctl/local/env.h"
#include "tools/qanatctl/local/pod_world.h"

namespace qanat::local {

constexpr char kAccountDir[] = "/var/run/secrets/kubernetes.io/serviceaccount";

// Fresh tokens of the pod's account: below serviceaccount/ the one for the API, and `token`, the
// mesh's. May be called again at any time.
Status WriteTokens(const PodWorld& world, const PodFacts& facts, const std::string& dir);
Status WriteVolumes(const Plan& plan, const PodPlan& pod, const std::string& dir);

}  // namespace qanat::local
