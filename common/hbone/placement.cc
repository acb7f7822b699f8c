// SPDX-License-Identifier: Apache-2.0
#include "common/hbone/placement.h"

#include <algorithm>

namespace qanat::hbone {

namespace {

constexpr size_t kParallelDials = 4;

bool Better(const TunnelLoad& one, const TunnelLoad& other) {
  if (one.bulk != other.bulk) return one.bulk < other.bulk;
  if (one.bulk != 0) return one.streams < other.streams;
  const bool gathers = one.streams < kTogether, other_gathers = other.streams < kTogether;
  if (gathers != other_gathers) return gathers;
  return gathers ? one.streams > other.streams : one.streams < other.streams;
}

}  // namespace

size_t Place(std::span<const TunnelLoad> tunnels) {
  size_t best = kNoTunnel;
  for (size_t i = 0; i < tunnels.size(); ++i) {
    const TunnelLoad& one = tunnels[i];
    if (!one.usable || one.streams >= one.limit) continue;
    if (best == kNoTunnel || Better(one, tunnels[best])) best = i;
  }
  return best;
}

bool WantsStripe(std::span<const TunnelLoad> tunnels, size_t dialing, size_t stripes) {
  size_t usable = 0;
  for (const TunnelLoad& one : tunnels) {
    if (!one.usable) continue;
    if (one.bulk == 0) return false;
    ++usable;
  }
  return usable > 0 && dialing == 0 && usable < stripes;
}

size_t DialsWanted(size_t waiting, size_t limit, size_t tunnels, size_t most_tunnels) {
  if (waiting == 0 || tunnels >= most_tunnels) return 0;
  if (limit == 0) return tunnels == 0 ? 1 : 0;
  return std::min({(waiting + limit - 1) / limit, kParallelDials, most_tunnels - tunnels});
}

}  // namespace qanat::hbone
