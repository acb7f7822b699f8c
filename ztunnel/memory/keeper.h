// SPDX-License-Identifier: Apache-2.0
// Keeps the process and each pod inside their budgets of memory: looks at what is used (once a
// second, at once when a worker's buffers grow fast, often while it is scarce), tells the workers
// how scarce it is, and has those who hold most ended when that does not help. Main thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/metrics/registry.h"
#include "ztunnel/memory/budget.h"
#include "ztunnel/memory/limit.h"
#include "ztunnel/pod.h"
#include "ztunnel/proxy/worker.h"

namespace qanat::ztunnel {

class MemoryKeeper {
 public:
  // The workers have not begun to serve; `pods` tells which are served now.
  MemoryKeeper(event::EventLoop& loop, const Environment& environment,
               std::vector<std::unique_ptr<Worker>>& workers,
               std::function<std::vector<PodPtr>()> pods, metrics::Registry& registry);

  void Start();
  // For `why`: what a new connection of that pod would be told; "": it would be taken.
  std::string Full(const Pod& pod) const;

 private:
  using Time = event::TimePoint;
  // Of the process or of one pod.
  struct State {
    MemoryLevel level = MemoryLevel::kPlenty;
    Time full_since{};
  };
  struct Shedding {
    PodPtr pod;  // only its connections; null: all
    uint64_t excess = 0;
    size_t left = 0;  // workers that have not answered
    std::vector<MemoryHolder> holders;
    uint64_t bytes = 0;  // of those that were ended
    size_t ended = 0;
  };

  void Look();
  MemoryVerdict Judge(State& state, uint64_t used, uint64_t budget, Time now);
  void LookAtPods(Time now);
  void SetAlarms(uint64_t used);
  void ReturnFreeMemory(Time now);
  void Tell(MemoryLevel before, uint64_t held);
  // Two rounds through the workers: who holds what; end these.
  void Shed(PodPtr pod, uint64_t excess);
  void End(const std::shared_ptr<Shedding>& shedding);
  void OnEnded(const Shedding& shedding);
  uint64_t Held() const;

  event::EventLoop& loop_;
  const Environment& environment_;
  std::vector<std::unique_ptr<Worker>>& workers_;
  const std::function<std::vector<PodPtr>()> pods_;
  const MemoryLimits limits_;
  const uint64_t budget_, pod_budget_;
  metrics::Family<metrics::Counter>&shed_connections_, &shed_bytes_;  // scope: proxy, pod
  State state_;
  std::map<std::string, State> pod_states_;  // of those that are not at kPlenty, by uid
  bool shedding_ = false;
  Time returned_{}, told_base_{};
  event::Timer timer_;
};

}  // namespace qanat::ztunnel
