// SPDX-License-Identifier: Apache-2.0
// Whether the process has the rights without which it could serve no pod, asked once when it starts
// (stock ztunnel does so too): without them every pod would be refused on its own, again and again.
#pragma once

#include "common/base/result.h"
#include "ztunnel/config.h"

namespace qanat::ztunnel {

// Enters its own network namespace (not in dedicated mode) and marks a socket (not without a mark).
Status CheckRights(const Config& config);

}  // namespace qanat::ztunnel
