// SPDX-License-Identifier: Apache-2.0
// One call of the plugin: asks the API server, else the cache on disk, and then the node agent.
// Blocking; a process of its own for each call.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "agent/plugin/invocation.h"

namespace qanat::plugin {

struct Answer {
  std::string output;  // for stdout
  int exit_code = 0;
  std::string note;  // for stderr and the log
};

struct Limits {
  std::chrono::milliseconds api{2000};
  std::chrono::milliseconds agent{35000};  // the agent itself answers after 30 s
};

Answer Run(const Environment& environment, std::string_view stdin_text, const Limits& limits = {});

}  // namespace qanat::plugin
