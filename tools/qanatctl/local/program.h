// SPDX-License-Identifier: Apache-2.0
// A process that is kept running: a program of the mesh, a DNS server, a container. Restarted with
// exponential backoff, which is forgotten after a quiet spell. On the supervisor's loop.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "common/event/event_loop.h"
#include "tools/qanatctl/local/process.h"

namespace qanat::local {

struct Backoff {
  std::chrono::milliseconds first{200};
  std::chrono::milliseconds most{10000};
  std::chrono::milliseconds quiet{10000};  // running for so long forgets the past
};

class Program {
 public:
  enum class State : uint8_t { kStopped, kRunning, kWaiting, kCompleted };
  using MakeSpec = std::function<Result<SpawnSpec>()>;  // asked before every start

  Program(event::EventLoop& loop, std::string name, Backoff backoff, MakeSpec make_spec,
          std::function<void()> on_change);
  ~Program();

  void Start();
  // Ends it and keeps it down: SIGTERM, then SIGKILL after `grace`.
  void Stop(std::chrono::milliseconds grace);
  void Restart();  // ends it now; it comes back at once
  void Signal(int signal);
  void set_restart(bool always, bool on_failure) {
    restart_always_ = always;
    restart_on_failure_ = on_failure;
  }

  const std::string& name() const { return name_; }
  State state() const { return state_; }
  pid_t pid() const { return process_ && process_->running() ? process_->pid() : 0; }
  int restarts() const { return restarts_; }
  const std::string& last_end() const { return last_end_; }  // "" when it never ended
  bool completed_ok() const { return completed_ok_; }
  event::TimePoint started() const { return started_; }

 private:
  void OnExit(ExitInfo info);
  void Wait(const std::string& why);

  event::EventLoop& loop_;
  std::string name_;
  Backoff backoff_;
  MakeSpec make_spec_;
  std::function<void()> on_change_;
  event::Timer timer_;
  event::Timer kill_timer_;
  std::unique_ptr<Process> process_;
  State state_ = State::kStopped;
  bool wanted_ = false;
  bool immediate_ = false;
  bool restart_always_ = true;
  bool restart_on_failure_ = true;
  bool completed_ok_ = false;
  int restarts_ = 0;
  std::chrono::milliseconds delay_{0};
  event::TimePoint started_{};
  std::string last_end_;
};

}  // namespace qanat::local
