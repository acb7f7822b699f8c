// SPDX-License-Identifier: Apache-2.0
// Counts the locks that threads take and the wake-ups that they give to others: the program's
// calls of libc's mutexes, read-write locks, condition variables, futexes and writes to eventfds
// come here first. Only of threads that asked for it, and only while Count() is on. Locks inside of
// libc (malloc's arenas) are not seen.
#pragma once

#include <string>

namespace qanat::test {

// From now on this thread is one of those that are counted.
void CountThisThread();
void Count(bool on);  // any thread; on: from nothing

struct Counted {
  int locks = 0;
  int wakeups = 0;
  std::string where;  // the stacks of the first few
};
Counted WhatWasCounted();

}  // namespace qanat::test
