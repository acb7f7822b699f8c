// SPDX-License-Identifier: Apache-2.0
// A CPU profile of chosen event loops: a timer on each thread's own CPU time interrupts it, the
// handler takes its stack. Costs nothing while none is taken. One at a time; on the main thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/event/event_loop.h"

namespace qanat::ztunnel::profile {

class CpuProfiler {
 public:
  // The loops outlive it; `loop` is the one that it is used on.
  CpuProfiler(event::EventLoop& loop, std::vector<event::EventLoop*> watched);
  ~CpuProfiler();

  // Calls `done` with the encoded profile after that time; kAlreadyExists while one is being taken.
  Status Start(event::Duration time, unsigned frequency, std::function<void(std::string)> done);

 private:
  struct Run;
  void Finish();

  event::EventLoop& loop_;
  const std::vector<event::EventLoop*> watched_;
  std::shared_ptr<Run> run_;
  event::Timer timer_;
};

}  // namespace qanat::ztunnel::profile
