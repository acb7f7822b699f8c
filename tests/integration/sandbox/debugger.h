// SPDX-License-Identifier: Apache-2.0
// Makes a running process make a system call, as a debugger does, and tells how it came out. The
// process then goes on where it was. x86-64.
#pragma once

#include <sys/types.h>

#include <array>
#include <string>

#include "common/base/result.h"

namespace qanat::test {

// The call's result, -EPERM and so on. Its main thread must be waiting in a system call.
Result<long> CallInside(pid_t process, long number, const std::array<unsigned long, 6>& arguments);

}  // namespace qanat::test
