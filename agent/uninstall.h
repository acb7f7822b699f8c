// SPDX-License-Identifier: Apache-2.0
// The end of an instance that no longer runs, by its settings alone: what a node looks like that
// never had it. Safe to repeat.
#pragma once

#include "agent/app.h"
#include "common/base/result.h"

namespace qanat::agent {

// --uninstall: plain networking for every pod, then pins, state, status files and sockets, and in a
// cluster the CNI entry, the plugin, its credentials and cache. Fails, and does nothing, while an
// agent serves the socket. What can be removed is, also after an error; the first one is returned.
Status Uninstall(const Config& config);

}  // namespace qanat::agent
