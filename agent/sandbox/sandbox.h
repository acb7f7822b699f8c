// SPDX-License-Identifier: Apache-2.0
// What the agent gives up for good before it hears from anybody: all capabilities but three, new
// privileges, core dumps and debuggers, and every system call that it does not need. Once in
// main(), before there are threads, after what it needs only once (PrepareProcess).
#pragma once

#include <sys/types.h>

#include <optional>
#include <span>
#include <string>

#include "common/base/environment.h"
#include "common/base/log.h"
#include "common/base/result.h"

namespace qanat::agent::sandbox {

// QANAT_SANDBOX=off: false. Anything but on and off is an error.
Result<bool> IsOn(const GetEnvironment& get);

// `group`: whose sockets it will open (--zds-group). Who may join it does, since the right to give
// files to any group goes.
Status Enter(std::optional<gid_t> group, log::Format format);

std::span<const int> OwnCalls();  // system calls beside those of common/sandbox/calls.h
std::string Describe();           // "user 0:0, capabilities NET_ADMIN ...", for the log

}  // namespace qanat::agent::sandbox
