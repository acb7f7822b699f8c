// SPDX-License-Identifier: Apache-2.0
// The two whom the plugin asks: the API server and the node agent. Blocking.
#pragma once

#include <chrono>
#include <string>

#include "agent/plugin/invocation.h"
#include "common/base/result.h"

namespace qanat::plugin {

// Is the pod in the mesh, by the API server's word? An error: it could not say.
Result<bool> AskApiServer(const Invocation& call, std::chrono::milliseconds timeout);

// POST to the agent: success when the pod may run, else the agent's reason. `in_mesh`: the API
// server says that the pod is; an agent that has not heard of it yet then waits for it.
Status AskAgent(const Invocation& call, bool in_mesh, const std::string& path,
                std::chrono::milliseconds timeout);

}  // namespace qanat::plugin
