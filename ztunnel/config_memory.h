// SPDX-License-Identifier: Apache-2.0
// Amounts of memory in the environment, as Kubernetes writes them. Pure.
#pragma once

#include <cstdint>

#include "common/base/environment.h"

namespace qanat::ztunnel {

// Less could not even hold the program itself; of a pod, not one connection.
inline constexpr uint64_t kLeastBudget = 16u << 20, kLeastPodMemory = 1u << 20;

// "134217728", "512Mi", "1G"; in proxyMetadata of a ProxyConfig, too. 0 where it is not set.
uint64_t ReadBytes(EnvironmentReader& reader, const char* name, uint64_t least);

}  // namespace qanat::ztunnel
