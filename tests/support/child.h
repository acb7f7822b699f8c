// SPDX-License-Identifier: Apache-2.0
// For tests: a program as a child process, with its output in a file, and what that output must
// not contain. Lives on the test's thread; the process dies with the test.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace qanat::test {

// The first report of a sanitizer or of a crash in a program's output, or the first private key,
// with the lines that follow; "" when there is none. tests/support/reports.py looks for the same.
std::string FindReport(const std::string& output);

class Child {
 public:
  struct Options {
    std::vector<std::string> command;      // the first is the program's path
    std::vector<std::string> environment;  // NAME=value, on top of the test's own
    std::string log;                       // stdout and stderr go here
    int netns = -1;                        // the network namespace it runs in; -1: the caller's
  };
  explicit Child(const Options& options);
  ~Child();  // SIGKILL, if it still runs
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  bool running();
  pid_t pid() const { return pid_; }
  void Signal(int signal) const;
  // "exit code 0", "signal 11", or "running" when it has not ended within the time.
  std::string Wait(int timeout_ms);
  // SIGTERM, and SIGKILL after the time.
  std::string Stop(int timeout_ms = 30000);
  std::string Log() const;
  bool WaitForLog(const std::string& text, int timeout_ms = 60000);

 private:
  std::string log_;
  pid_t pid_ = -1;
  std::string end_ = "running";
};

}  // namespace qanat::test
