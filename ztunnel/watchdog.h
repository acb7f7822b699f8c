// SPDX-License-Identifier: Apache-2.0
// Notices an event loop that no longer turns. A thread of its own posts a probe to every loop and
// measures how long it stays unanswered; one that is over the limit is named by Stuck() (liveness)
// and its stack is logged, once. Made on the main thread; Stuck() may be called from any.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/event/event_loop.h"

namespace qanat::ztunnel {

class Watchdog {
 public:
  struct Options {
    std::chrono::milliseconds interval{1000};
    std::chrono::milliseconds limit{10000};
  };
  struct Watched {
    std::string name;
    event::EventLoop* loop;  // outlives the watchdog
  };

  Watchdog(std::vector<Watched> watched, Options options);
  explicit Watchdog(std::vector<Watched> watched);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // "worker-1 (12 s), main (11 s)"; empty when all loops turn.
  std::string Stuck() const;
  size_t stuck_count() const;

 private:
  struct Probe;
  struct Entry {
    Watched watched;
    std::shared_ptr<Probe> probe;
    event::TimePoint asked;
    bool reported = false;
    std::chrono::seconds late{0};  // 0: not stuck
  };

  struct Report {
    std::string name;
    int thread = 0;
    std::chrono::milliseconds late{0};
  };

  void Run();
  void Look(Entry& entry, event::TimePoint now, bool slept, std::vector<Report>& reports);

  const Options options_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  bool stop_ = false;
  std::vector<Entry> entries_;
  std::thread thread_;
};

// The stack of a thread of this process, innermost first, one frame a line; why not, where there is
// none within a second. For threads that have called profile::RegisterThisThread().
std::string StackOf(int thread_id);

}  // namespace qanat::ztunnel
