// SPDX-License-Identifier: Apache-2.0
// Kills a program just before one of the system calls by which it changes pins and links.
#pragma once

#include <sys/types.h>

#include <string>

namespace qanat::test {

struct Killed {
  int reached = 0;   // so many of these calls were seen; less than asked for: it lives
  std::string what;  // the one before which it was killed
};

// `pid`: to be stopped in exec by PTRACE_TRACEME, a child of the calling thread. Counted are pins
// below `folder`, replaced links, renames, and what is removed. When the program waits for events
// it has done all of them, and is let go.
Killed KillAtStep(pid_t pid, const std::string& folder, int step);

}  // namespace qanat::test
