// SPDX-License-Identifier: Apache-2.0
#include "waypoint/balance/balancer.h"

#include <algorithm>
#include <limits>

namespace qanat::waypoint {
namespace {

struct Candidates {
  std::vector<size_t> hosts;
  uint64_t total_weight = 0;
  bool equal_weights = true;
};

Candidates Usable(std::span<const LbHost> hosts) {
  uint32_t best = std::numeric_limits<uint32_t>::max();
  for (const LbHost& h : hosts) {
    if (h.healthy && h.weight > 0) best = std::min(best, h.priority);
  }
  Candidates out;
  for (size_t i = 0; i < hosts.size(); ++i) {
    const LbHost& h = hosts[i];
    if (!h.healthy || h.weight == 0 || h.priority != best) continue;
    if (!out.hosts.empty() && hosts[out.hosts[0]].weight != h.weight) out.equal_weights = false;
    out.hosts.push_back(i);
    out.total_weight += h.weight;
  }
  return out;
}

size_t ByWeight(const Candidates& c, std::span<const LbHost> hosts, uint64_t random) {
  if (c.equal_weights) return c.hosts[random % c.hosts.size()];
  uint64_t point = random % c.total_weight;
  for (size_t i : c.hosts) {
    if (point < hosts[i].weight) return i;
    point -= hosts[i].weight;
  }
  return c.hosts.back();
}

size_t PickOnce(LbPolicy policy, const Candidates& c, std::span<const LbHost> hosts, LbState& state,
                const std::function<uint64_t()>& random, uint32_t choices) {
  switch (policy) {
    case LbPolicy::kRandom: return ByWeight(c, hosts, random());
    case LbPolicy::kRoundRobin: {
      if (c.equal_weights) return c.hosts[state.next++ % c.hosts.size()];
      // A stride that is coprime to the total visits every point of the circle of weights evenly.
      uint64_t point = state.next++ * 0x9E3779B97F4A7C15ull;
      return ByWeight(c, hosts, point >> 16);
    }
    case LbPolicy::kLeastRequest: break;
  }
  // Drawn by weight, then the one with fewer requests: weights are kept in the long run and a slow
  // host is avoided. Two different hosts are compared where there are two.
  size_t best = ByWeight(c, hosts, random());
  if (c.hosts.size() == 1) return best;
  for (uint32_t k = 1; k < std::max<uint32_t>(choices, 2); ++k) {
    size_t other = ByWeight(c, hosts, random());
    if (other == best) {
      auto at = std::find(c.hosts.begin(), c.hosts.end(), best) - c.hosts.begin();
      if (c.equal_weights) {
        size_t step = 1 + random() % (c.hosts.size() - 1);
        other = c.hosts[(static_cast<size_t>(at) + step) % c.hosts.size()];
      }
    }
    if (hosts[other].active < hosts[best].active) best = other;
  }
  return best;
}

}  // namespace

std::optional<size_t> PickHost(LbPolicy policy, std::span<const LbHost> hosts, LbState& state,
                               const std::function<uint64_t()>& random,
                               std::span<const size_t> avoid, uint32_t avoid_attempts,
                               uint32_t choices) {
  Candidates candidates = Usable(hosts);
  if (candidates.hosts.empty()) return std::nullopt;
  size_t pick = PickOnce(policy, candidates, hosts, state, random, choices);
  for (uint32_t i = 0; i < avoid_attempts; ++i) {
    if (std::find(avoid.begin(), avoid.end(), pick) == avoid.end()) break;
    pick = PickOnce(policy, candidates, hosts, state, random, choices);
  }
  return pick;
}

}  // namespace qanat::waypoint
