// SPDX-License-Identifier: Apache-2.0
// The system calls that every confined program of ours may make. Taken from traces of the tests
// with every feature of theirs and from what libc makes of the functions that they call (other
// versions of libc choose other calls for the same function: these are here too). Everything else
// is refused: SYS_ADMIN alone would otherwise mean mount, pivot_root, quotactl and a hundred more.
#pragma once

#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <cstdint>
#include <span>

namespace qanat::sandbox {

// Allowed whatever their arguments.
std::span<const int> CommonCalls();

// A call of which only some values of one argument are allowed.
struct Checked {
  int call;
  int argument;                      // its index
  std::span<const uint32_t> values;  // one of these; with `bits`, all of these bits
  bool bits = false;
};
std::span<const Checked> CheckedCalls();

// What only the sanitizers' runtimes need, at a report or the search for leaks at the end. Empty in
// every other build; there is no switch at run time.
std::span<const int> SanitizerCalls();

}  // namespace qanat::sandbox
