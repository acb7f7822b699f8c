// SPDX-License-Identifier: Apache-2.0
// Starting programs in a network namespace, a cgroup and, for containers, a sandbox; and hearing of
// their end through a pidfd on the supervisor's loop. Nothing here waits for a program to end.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/takeover/supervisor.h"
#include "tools/qanatctl/local/sandbox.h"

namespace qanat::local {

struct SpawnSpec {
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::string netns;                 // path, "" = the caller's
  std::string cgroup;                // existing folder, "" = the caller's
  std::string log;                   // stdout and stderr are appended here; "" = /dev/null
  std::optional<std::string> input;  // given on stdin (kept below 60 KiB or the pipe would block)
  std::optional<Sandbox> sandbox;
  // Given on as LISTEN_FDS (sd_listen_fds(3)); not owned. Without a sandbox only.
  std::vector<takeover::PassedFd> passed;
};

struct ExitInfo {
  int code = 0;    // exit code, when signal is 0
  int signal = 0;  // the signal that ended it
  bool ok() const { return code == 0 && signal == 0; }
  std::string ToString() const;  // "exit code 3", "signal 9 (Killed)"
};

// One child. Destroying the object does not end the process; it only stops listening.
class Process {
 public:
  using OnExit = std::function<void(ExitInfo)>;
  // Returns after the exec has succeeded; whatever failed on the way there is the error.
  static Result<std::unique_ptr<Process>> Start(event::EventLoop& loop, const SpawnSpec& spec,
                                                OnExit on_exit);
  ~Process();
  pid_t pid() const { return pid_; }
  bool running() const { return running_; }
  void Signal(int signal);

 private:
  Process(event::EventLoop& loop, pid_t pid, Fd pidfd, OnExit on_exit);
  void Reap();
  event::EventLoop& loop_;
  pid_t pid_;
  Fd pidfd_;
  OnExit on_exit_;
  bool running_ = true;
  std::unique_ptr<event::IoWatch> watch_;
};

// fork + exec as above, without a loop: returns the child's pid.
Result<pid_t> Spawn(const SpawnSpec& spec);

}  // namespace qanat::local
