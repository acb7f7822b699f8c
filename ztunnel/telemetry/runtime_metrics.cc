// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/runtime_metrics.h"

#include <chrono>
#include <string>

namespace qanat::ztunnel {

namespace {

using event::LoopLoad;
using metrics::Kind;
using metrics::Sample;

struct OfAll {
  const char* name;
  const char* help;
  double (*value)(const RuntimeLoad&);
};

constexpr OfAll kOfAll[] = {
    {"tokio_num_workers", "Event loops that carry connections, a thread each",
     [](const RuntimeLoad& load) { return static_cast<double>(load.workers.size()); }},
    {"tokio_global_queue_depth", "Tasks of other threads that event loops have not begun",
     [](const RuntimeLoad& load) {
       size_t sum = 0;
       for (const LoopLoad& one : load.workers) sum += one.posts_waiting;
       return static_cast<double>(sum);
     }},
    {"tokio_num_alive_tasks", "Connections and tunnels that are there or being made",
     [](const RuntimeLoad& load) { return static_cast<double>(load.tasks); }},
};

struct OfEach {
  Kind kind;
  const char* name;
  const char* help;
  double (*value)(const LoopLoad&);
};

// The stock proxy calls the last two counters and writes them without "_total"; by that name they
// are found.
constexpr OfEach kOfEach[] = {
    {Kind::kCounter, "tokio_worker_total_busy_duration_seconds",
     "Time that an event loop did not wait for anything to happen",
     [](const LoopLoad& load) { return std::chrono::duration<double>(load.busy).count(); }},
    {Kind::kGauge, "tokio_worker_park_count",
     "Times that an event loop had nothing to do and waited",
     [](const LoopLoad& load) { return static_cast<double>(load.waits); }},
    {Kind::kGauge, "tokio_worker_park_unpark_count",
     "Times that an event loop began or ended to wait; odd: it waits now",
     [](const LoopLoad& load) {
       return static_cast<double>(2 * load.waits - (load.waiting ? 1 : 0));
     }},
};

}  // namespace

void AddRuntimeMetrics(metrics::Registry& registry, const std::function<RuntimeLoad()>& read) {
  for (const OfAll& row : kOfAll) {
    registry.AddCallback(Kind::kGauge, row.name, row.help, [read, value = row.value] {
      return std::vector<Sample>{{{}, value(read())}};
    });
  }
  for (const OfEach& row : kOfEach) {
    registry.AddCallback(row.kind, row.name, row.help, [read, value = row.value] {
      std::vector<Sample> out;
      for (const LoopLoad& load : read().workers) {
        out.push_back({{{"worker", std::to_string(out.size())}}, value(load)});
      }
      return out;
    });
  }
}

}  // namespace qanat::ztunnel
