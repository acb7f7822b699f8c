// SPDX-License-Identifier: Apache-2.0
// What a cluster must have, and must not have, before the mesh goes in. Each finding says what was
// seen, where, and the remedy. Thread: any; blocks.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "tools/qanatctl/install/api.h"
#include "tools/qanatctl/install/manifest.h"

namespace qanat::ctl {

struct Finding {
  enum class Level { kFine, kNote, kBlocks };
  Level level = Level::kFine;
  std::string what;
  std::string remedy;
};

// An error means that the API server could not be asked.
Result<std::vector<Finding>> CheckPrerequisites(const Api& api, const InstallValues& values);

// The parts, for tests. An empty list: nothing to say.
Finding CheckVersion(const nlohmann::json& version);
std::vector<Finding> CheckCilium(const nlohmann::json& config_map);
std::vector<Finding> CheckCalico(const nlohmann::json& felix);

}  // namespace qanat::ctl
