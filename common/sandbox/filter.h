// SPDX-License-Identifier: Apache-2.0
// The seccomp filter of a program: the calls that all of ours make (calls.h) and its own. It stays
// for good and holds for every thread.
#pragma once

#include <span>

#include "common/base/log.h"
#include "common/base/result.h"

namespace qanat::sandbox {

struct Allowed {
  std::span<const int> calls;  // beside those of calls.h
};

// Needs NO_NEW_PRIVS (SealProcess) or SYS_ADMIN. Other calls return EPERM, and are named in the log
// the first time.
Status InstallFilter(const Allowed& allowed, log::Format format);

}  // namespace qanat::sandbox
