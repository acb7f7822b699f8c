// SPDX-License-Identifier: Apache-2.0
// Which endpoint a request goes to: least request (the better of two random picks), round robin or
// random, over the healthy endpoints of the best priority, by weight. Pure: the caller brings
// randomness and the present counts of active requests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace qanat::waypoint {

enum class LbPolicy : uint8_t { kLeastRequest, kRoundRobin, kRandom };

struct LbHost {
  uint32_t weight = 1;
  uint32_t priority = 0;  // lower is better
  bool healthy = true;
  uint32_t active = 0;  // requests in flight from this worker
};

struct LbState {
  uint64_t next = 0;  // round robin
};

// The index of the pick, or nothing when no host is usable (UH). `avoid` (sorted or not, may be
// empty) are hosts of earlier attempts of the same request: passed over while `avoid_attempts`
// picks allow it, as Envoy's previous_hosts predicate does.
std::optional<size_t> PickHost(LbPolicy policy, std::span<const LbHost> hosts, LbState& state,
                               const std::function<uint64_t()>& random,
                               std::span<const size_t> avoid = {}, uint32_t avoid_attempts = 1,
                               uint32_t choices = 2);

}  // namespace qanat::waypoint
