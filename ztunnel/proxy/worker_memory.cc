// SPDX-License-Identifier: Apache-2.0
// The worker's part in keeping to the budget of memory: who holds what, and the end of those who
// hold most (ztunnel/memory/keeper.h decides).
#include <fmt/format.h>

#include <algorithm>

#include "common/base/log.h"
#include "ztunnel/proxy/worker.h"

namespace qanat::ztunnel {
namespace {

// All streams of a tunnel end with it: only for what it has when its peer does not read.
constexpr size_t kLeastOfTunnel = 128 << 10;

}  // namespace

std::vector<MemoryHolder> Worker::Holders(size_t index, const Pod* of, size_t most) {
  std::vector<MemoryHolder> out;
  for (const auto& [pointer, owned] : connections_) {
    if (of != nullptr && pointer->pod().uid != of->uid) continue;
    const size_t bytes = pointer->held();
    if (bytes == 0 || (!pointer->IsUserConnection() && bytes < kLeastOfTunnel)) continue;
    out.push_back({bytes, index, pointer});
  }
  const auto larger = [](const MemoryHolder& a, const MemoryHolder& b) {
    return a.bytes > b.bytes;
  };
  if (out.size() > most) {
    std::nth_element(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(most), out.end(),
                     larger);
    out.resize(most);
  }
  return out;
}

std::pair<size_t, uint64_t> Worker::EndHolders(const std::vector<MemoryHolder>& holders,
                                               bool of_pod) {
  std::pair<size_t, uint64_t> ended{0, 0};
  for (const MemoryHolder& one : holders) {
    // It may have ended meanwhile (and another one have its place), or have been read.
    const auto it = connections_.find(const_cast<Connection*>(one.connection));
    if (it == connections_.end()) continue;
    const size_t bytes = it->first->held();
    if (bytes < one.bytes / 2) continue;
    ++ended.first;
    ended.second += bytes;
    const std::string detail =
        fmt::format("it held {} bytes, more than others, when the memory of the {} ran out", bytes,
                    of_pod ? "pod (QANAT_MAX_MEMORY_PER_POD)" : "proxy (QANAT_MEMORY_BUDGET)");
    if (!it->first->IsUserConnection()) {
      CountTunnelError(model::Reason::kMemoryExhausted);
      LOG_WARN("inbound", "a tunnel to {} was ended: {}", it->first->pod().name, detail);
    }
    it->first->Close(model::Reason::kMemoryExhausted, detail);
  }
  return ended;
}

}  // namespace qanat::ztunnel
