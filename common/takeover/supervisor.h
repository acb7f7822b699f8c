// SPDX-License-Identifier: Apache-2.0
// A supervisor that keeps descriptors for a program across its death, by the protocol of systemd:
// it passes them when it starts the program (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES;
// sd_listen_fds(3)) and takes more over NOTIFY_SOCKET (FDSTORE=1; sd_pid_notify_with_fds(3)).
// holder.h, which is such a one, also gives them to a program that somebody else has started.
#pragma once

#include <chrono>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "common/base/environment.h"
#include "common/base/fd.h"
#include "common/base/result.h"

namespace qanat::takeover {

struct PassedFd {
  std::string name;
  int fd = -1;  // not owned yet
};
// None where LISTEN_PID is not this process: then they are for somebody else.
std::vector<PassedFd> ReadPassedFds(const GetEnvironment& get);
// Takes a passed descriptor: the process's own from here on, and of no child.
Fd TakePassed(const PassedFd& passed);

// The question for what is kept (an assignment of ours, as sd_notify(3) leaves room for).
inline constexpr std::string_view kFetch = "X_QANAT_FETCH=1";
// Says nothing; shows whether somebody takes it.
inline constexpr std::string_view kHere = "X_QANAT_HERE=1";

// Main thread. A supervisor that is not there, or does not take a message within a moment, is not
// told anything before TryAgain().
class Supervisor {
 public:
  struct Named {
    std::string name;
    Fd fd;
  };
  // `notify_socket` as in NOTIFY_SOCKET; "" is nobody.
  explicit Supervisor(std::string notify_socket);

  bool present() const { return !path_.empty() && !away_; }
  // Did not take something: what is to be kept is not all with it.
  bool away() const { return away_; }
  // Whether it is there now, and has been told what is owed.
  bool TryAgain();
  // Keep these under the name, beside what is kept under it already; the same socket twice is kept
  // once. A name has at most 255 characters, printable ASCII without a colon.
  Status Keep(const std::string& name, std::span<const int> fds);
  // Owed until it is told: what nobody reads any more must not stay where a next process finds it.
  Status Forget(const std::string& name);
  Status Settle();  // tells what is owed
  Status Ready();
  // Asks for copies of all that is kept; one question at a time. systemd knows no such question and
  // drops it, which reads as nothing.
  Status Ask();
  bool asked() const { return answer_.valid(); }
  // Waits for the answer, at most so long; what came until then.
  std::vector<Named> Answer(std::chrono::milliseconds most);

 private:
  Status Send(const std::string& text, std::span<const int> fds);

  const std::string path_;
  bool away_ = false;
  std::set<std::string> owed_;  // names to be forgotten
  Fd fd_;
  Fd answer_;
};

bool IsFdName(std::string_view name);

}  // namespace qanat::takeover
