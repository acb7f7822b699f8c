// SPDX-License-Identifier: Apache-2.0
// Word of changed files from the kernel, where it is to be had. The number of inotify instances of
// a user is limited, and root's are shared by all that run on the node: who watches files also
// looks at them now and then, and is only slower without it. Stateless.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/fd.h"

namespace qanat::agent {

// An inotify instance, or none and a warning that names the limit and says that `what` is looked
// at every `interval` instead.
Fd OpenInotify(std::string_view what, std::string_view interval);
// Whether `path` is watched. "No more watches" is a warning of the same kind, given when `warn`.
bool AddInotifyWatch(const Fd& inotify, const std::string& path, uint32_t events,
                     std::string_view interval, bool warn);

}  // namespace qanat::agent
