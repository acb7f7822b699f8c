// SPDX-License-Identifier: Apache-2.0
// One epoll loop per thread. Everything that is registered with a loop lives on its thread; the
// only calls allowed from other threads are Post(), Stop(), load() and memory(). The loop knows
// file descriptors and timers, nothing of networking.
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/fd.h"
#include "common/base/memory_meter.h"

namespace qanat::event {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
using Duration = Clock::duration;

class EventLoop;

// Watches one fd for as long as it lives. Does not own the fd; destroy the watch before closing it.
// Level-triggered: the handler is called again while a wanted condition holds. EPOLLERR and
// EPOLLHUP are always reported. A handler may destroy its own watch.
class IoWatch {
 public:
  using Handler = std::function<void(uint32_t events)>;
  IoWatch(EventLoop& loop, int fd, uint32_t events, Handler handler);
  ~IoWatch();
  IoWatch(const IoWatch&) = delete;
  IoWatch& operator=(const IoWatch&) = delete;

  void SetEvents(uint32_t events);  // EPOLLIN | EPOLLOUT | EPOLLRDHUP; no system call if unchanged
  uint32_t events() const { return events_; }
  // Saves the system call of leaving the loop: the owner closes the fd right after this watch is
  // destroyed, and no other fd refers to the same file.
  void FdIsClosedNext() { leave_ = false; }

 private:
  friend class EventLoop;
  EventLoop& loop_;
  int fd_;
  uint32_t events_;
  bool leave_ = true;
  uint32_t slot_;  // index into the loop's table, so that stale events are recognised
  Handler handler_;
};

// A one-shot timer; destroying it cancels. Re-arm with Start(). A handler may destroy its timer.
class Timer {
 public:
  using Handler = std::function<void()>;
  Timer(EventLoop& loop, Handler handler);
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  void Start(Duration delay);
  void Stop();
  bool armed() const { return armed_; }

 private:
  friend class EventLoop;
  EventLoop& loop_;
  Handler handler_;
  std::multimap<TimePoint, Timer*>::iterator position_;
  bool armed_ = false;
};

// Base of whatever is handed to DeferDelete.
class Deferred {
 public:
  virtual ~Deferred() = default;
};

// How a loop has spent its time since it was made.
struct LoopLoad {
  size_t posts_waiting = 0;
  Duration busy{0};    // not waiting for anything to happen; the present round's counts at its end
  uint64_t waits = 0;  // how often there was nothing to do at once
  bool waiting = false;  // at this moment
};

class EventLoop {
 public:
  EventLoop();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Runs until Stop(). The calling thread becomes the loop's thread.
  void Run();
  // Any thread. Run() returns after the present round; queued Posts stay queued.
  void Stop();
  // One round that waits at most `wait`: for tests and for loops embedded in another.
  void RunOnce(Duration wait);

  // Any thread. Runs in the order posted, on the loop's thread, in the next round.
  void Post(std::function<void()> task);

  // Loop thread. The object is destroyed after the present round of handlers, so that an object
  // may ask for its own death inside its own callback.
  void DeferDelete(std::unique_ptr<Deferred> object);

  // The time at the start of this round; cheap. Use Clock::now() where microseconds matter.
  TimePoint now() const { return now_; }
  bool InLoopThread() const { return std::this_thread::get_id() == thread_.load(); }
  // What the buffers of this loop's objects hold. Any thread.
  MemoryMeter& memory() { return memory_; }
  LoopLoad load() const;  // any thread

 private:
  friend class IoWatch;
  friend class Scratch;
  friend class Timer;
  void Round(int timeout_ms);
  void RunPosted();
  void RunTimers();
  int NextTimeoutMs(int limit_ms, TimePoint now) const;

  MemoryMeter memory_;  // outlives all that is on the loop
  Fd epoll_;
  Fd wake_;
  std::atomic<bool> stop_{false};
  std::atomic<std::thread::id> thread_{};
  TimePoint now_;
  TimePoint busy_since_;  // what is before it has been counted
  std::atomic<Duration::rep> busy_{0};
  std::atomic<uint64_t> turns_{0};  // to waiting and back: odd while it waits
  struct Slot {
    IoWatch* watch = nullptr;
    uint32_t generation = 0;
  };
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_slots_;
  std::multimap<TimePoint, Timer*> timers_;
  std::vector<std::unique_ptr<Deferred>> dying_;
  std::vector<std::unique_ptr<uint8_t[]>> scratch_;  // free ones
  // Lines of their own: other threads write here.
  alignas(64) std::atomic<size_t> posts_waiting_{0};  // all that a round without posts looks at
  std::mutex mutex_;                                  // guards posted_
  std::vector<std::function<void()>> posted_;
};

// A thread that runs one loop. Stop() (or the destructor) ends and joins it.
class LoopThread {
 public:
  explicit LoopThread(const char* name);  // at most 15 characters
  ~LoopThread();
  EventLoop& loop() { return loop_; }
  void Stop();

 private:
  EventLoop loop_;
  std::thread thread_;
};

// Calls the handler on the loop when one of the signals arrives (they are blocked for the process;
// construct it in main() before any thread starts).
class SignalWatch {
 public:
  SignalWatch(EventLoop& loop, std::vector<int> signals, std::function<void(int)> handler);

 private:
  Fd fd_;
  std::unique_ptr<IoWatch> watch_;
};

}  // namespace qanat::event
