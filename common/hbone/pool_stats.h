// SPDX-License-Identifier: Apache-2.0
// What a pool has and did. Written by the pool's loop, read by any thread (relaxed: each number is
// right, they need not be of one moment), so that metrics can be rendered without asking the loop.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "common/hbone/types.h"

namespace qanat::hbone {

struct PoolStats {
  size_t tunnels = 0;  // established, also those that drain
  size_t dialing = 0;
  size_t waiting = 0;   // streams that wait for a tunnel
  uint64_t dialed = 0;  // attempts since the start
  uint64_t failed = 0;
  uint64_t stripes = 0;  // of the attempts, those because of bulk on all other tunnels
  uint64_t refused = 0;  // streams that peers refused unprocessed
  uint64_t retried = 0;  // of these, those that were tried again
  uint64_t expired = 0;  // streams that waited in line in vain
  uint64_t broken = 0;   // tunnels that did not end in order, those included that follow
  uint64_t abused = 0;   // ... because of what the peer did
};

class PoolCounters {
 public:
  std::atomic<int64_t> tunnels{0}, dialing{0}, waiting{0};
  std::atomic<uint64_t> dialed{0}, failed{0}, stripes{0}, refused{0}, retried{0}, expired{0},
      broken{0};
  std::array<std::atomic<uint64_t>, kAbuseKinds> abused{};

  PoolStats Read() const {
    const auto get = [](const auto& value) { return value.load(std::memory_order_relaxed); };
    PoolStats out;
    out.tunnels = static_cast<size_t>(get(tunnels));
    out.dialing = static_cast<size_t>(get(dialing));
    out.waiting = static_cast<size_t>(get(waiting));
    out.dialed = get(dialed);
    out.failed = get(failed);
    out.stripes = get(stripes);
    out.refused = get(refused);
    out.retried = get(retried);
    out.expired = get(expired);
    out.broken = get(broken);
    for (const auto& one : abused) out.abused += get(one);
    return out;
  }
};

template <typename T>
void Count(std::atomic<T>& value, T by = 1) {
  value.fetch_add(by, std::memory_order_relaxed);
}

}  // namespace qanat::hbone
