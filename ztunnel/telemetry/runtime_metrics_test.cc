// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/runtime_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qanat::ztunnel {
namespace {

using ::testing::HasSubstr;

// The lines as the stock proxy writes them.
TEST(RuntimeMetrics, HaveTheNamesAndLabelsOfStockDashboards) {
  RuntimeLoad load;
  load.workers.push_back(
      {.posts_waiting = 2, .busy = std::chrono::milliseconds(1500), .waits = 7, .waiting = true});
  load.workers.push_back({.posts_waiting = 1, .busy = {}, .waits = 4, .waiting = false});
  load.tasks = 12;
  metrics::Registry registry;
  AddRuntimeMetrics(registry, [&load] { return load; });
  const std::string text = registry.Render(metrics::TextFormat::kOpenMetrics);
  for (const char* line : {
           "# TYPE tokio_num_workers gauge\n",
           "\ntokio_num_workers 2\n",
           "\ntokio_global_queue_depth 3\n",
           "\ntokio_num_alive_tasks 12\n",
           "# TYPE tokio_worker_total_busy_duration_seconds counter\n",
           "\ntokio_worker_total_busy_duration_seconds_total{worker=\"0\"} 1.5\n",
           "\ntokio_worker_total_busy_duration_seconds_total{worker=\"1\"} 0\n",
           "\ntokio_worker_park_count{worker=\"0\"} 7\n",
           "\ntokio_worker_park_count{worker=\"1\"} 4\n",
           "\ntokio_worker_park_unpark_count{worker=\"0\"} 13\n",
           "\ntokio_worker_park_unpark_count{worker=\"1\"} 8\n",
       }) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  // Read anew at each scrape.
  load.tasks = 3;
  EXPECT_THAT(registry.Render(), HasSubstr("\ntokio_num_alive_tasks 3\n"));
}

}  // namespace
}  // namespace qanat::ztunnel
