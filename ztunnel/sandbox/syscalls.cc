// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/sandbox/syscalls.h"

#include <sys/syscall.h>

namespace qanat::ztunnel::sandbox {
namespace {

constexpr int kOwn[] = {
    SYS_splice,
    // The saved state.
    SYS_sync_file_range,
    SYS_fallocate,
    SYS_memfd_create,
    // Timers of the profiler.
    SYS_timer_create,
    SYS_timer_settime,
    SYS_timer_gettime,
    SYS_timer_getoverrun,
    SYS_timer_delete,
};

}  // namespace

std::span<const int> OwnCalls() { return kOwn; }

}  // namespace qanat::ztunnel::sandbox
