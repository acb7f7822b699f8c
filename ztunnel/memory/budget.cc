// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/memory/budget.h"

#include <fmt/format.h>

#include <algorithm>

namespace qanat::ztunnel {
namespace {

constexpr uint64_t kScarce = 70, kFull = 85, kShed = 95, kShedTo = 75, kSlack = 5;  // per cent
constexpr auto kPatience = std::chrono::seconds(3);
constexpr size_t kLeastHolder = 16 << 10;

uint64_t Part(uint64_t budget, uint64_t per_cent) {
  return budget / 100 * per_cent + budget % 100 * per_cent / 100;
}

}  // namespace

uint64_t ScarceFrom(uint64_t budget) { return Part(budget, kScarce); }

MemoryVerdict JudgeMemory(uint64_t used, uint64_t budget, MemoryLevel before,
                          std::chrono::milliseconds full_for) {
  const auto reached = [&](MemoryLevel level, uint64_t per_cent) {
    return used >= Part(budget, before >= level ? per_cent - kSlack : per_cent);
  };
  MemoryVerdict verdict;
  verdict.level = reached(MemoryLevel::kFull, kFull)       ? MemoryLevel::kFull
                  : reached(MemoryLevel::kScarce, kScarce) ? MemoryLevel::kScarce
                                                           : MemoryLevel::kPlenty;
  const bool stuck = verdict.level == MemoryLevel::kFull && full_for >= kPatience;
  if (used >= Part(budget, kShed) || stuck) verdict.excess = used - Part(budget, kShedTo);
  return verdict;
}

std::vector<MemoryHolder> LargestHolders(std::vector<MemoryHolder> all, uint64_t excess) {
  std::sort(all.begin(), all.end(),
            [](const MemoryHolder& a, const MemoryHolder& b) { return a.bytes > b.bytes; });
  size_t count = 0;
  for (uint64_t sum = 0; count < all.size() && sum < excess; ++count) {
    if (all[count].bytes < kLeastHolder) break;
    sum += all[count].bytes;
  }
  all.resize(count);
  return all;
}

std::string MemoryFull(const MemoryMeter& proxy, const MemoryMeter& pod) {
  if (proxy.level() == MemoryLevel::kFull) {
    return "the proxy's memory is full (QANAT_MEMORY_BUDGET), nothing new is taken";
  }
  if (pod.level() == MemoryLevel::kFull) {
    return fmt::format(
        "what is unread on the pod's connections holds {} bytes (QANAT_MAX_MEMORY_PER_POD), "
        "nothing new is taken",
        pod.held());
  }
  return "";
}

}  // namespace qanat::ztunnel
