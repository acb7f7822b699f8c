// SPDX-License-Identifier: Apache-2.0
// Which tunnel a new stream goes to, and when a pool wants another one. Pure: numbers in, a choice
// out. A stream's class is what it has moved; a new one counts as interactive, goes where no bulk
// is, and stays there for its life (bytes of one stream must stay in order, so none is moved).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace qanat::hbone {

struct TunnelLoad {
  bool usable = true;  // not draining, not over
  size_t streams = 0;
  size_t limit = 100;  // streams that it may have: the peer's or our own
  uint64_t bulk = 0;   // what bulk streams moved lately
};

inline constexpr size_t kNoTunnel = SIZE_MAX;

// Streams that a tunnel is given before the next one is: what comes of one in the same turn of the
// loop goes out in one record and one system call, which a stream alone has for itself.
inline constexpr size_t kTogether = 32;

// Among tunnels with room: one without bulk, of these the one with most streams that has fewer than
// kTogether, else the one with fewest; if all have bulk, the one that moves least.
size_t Place(std::span<const TunnelLoad> tunnels);

// Every tunnel is busy with bulk and there may be more of them: the next stream should find one
// that is not.
bool WantsStripe(std::span<const TunnelLoad> tunnels, size_t dialing, size_t stripes);

// How many dials should be under way for streams that wait. `limit`: streams that one tunnel takes,
// as far as is known; 0: the peer takes none at all.
size_t DialsWanted(size_t waiting, size_t limit, size_t tunnels, size_t most_tunnels);

}  // namespace qanat::hbone
