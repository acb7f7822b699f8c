// SPDX-License-Identifier: Apache-2.0
// How many data-plane threads: from ZTUNNEL_WORKER_THREADS (N, "50%", 0 = all, auto), the limits
// that the chart passes on, and ProxyConfig's concurrency. Pure.
#pragma once

#include <cstdint>
#include <optional>

#include "common/base/environment.h"

namespace qanat::ztunnel {

// The listener map of the node agent has a slot per worker.
inline constexpr unsigned kMaxWorkers = 16;

unsigned ReadWorkers(EnvironmentReader& reader, unsigned cores,
                     std::optional<uint16_t> concurrency);

}  // namespace qanat::ztunnel
