// SPDX-License-Identifier: Apache-2.0
// What became of each object, with what the waypoints' translations found out on the way. On the
// control plane's loop.
#pragma once

#include <vector>

#include "controlplane/ads/hub.h"
#include "controlplane/translate/status.h"

namespace qanat::controlplane {

// Empty before the first snapshot.
std::vector<ObjectStatus> ObjectStatuses(AdsHub& hub);

}  // namespace qanat::controlplane
