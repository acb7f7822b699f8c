// SPDX-License-Identifier: Apache-2.0
// How the workers' event loops fare, under the names that stock dashboards have (tokio_*: what the
// stock proxy runs on) and with its labels. Read while metrics are rendered; nothing is counted
// here.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "common/event/event_loop.h"
#include "common/metrics/registry.h"

namespace qanat::ztunnel {

struct RuntimeLoad {
  std::vector<event::LoopLoad> workers;
  size_t tasks = 0;  // connections and tunnels, all workers'
};

// `read` is called on the rendering thread, several times a scrape.
void AddRuntimeMetrics(metrics::Registry& registry, const std::function<RuntimeLoad()>& read);

}  // namespace qanat::ztunnel
