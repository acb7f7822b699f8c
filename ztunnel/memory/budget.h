// SPDX-License-Identifier: Apache-2.0
// What is done about memory at which amount: from 70 % of a budget on it is scarce (windows and
// reads stay small), from 85 % on nobody new is taken, at 95 %, or when it has been full for some
// seconds, those who hold most are ended until 75 % is left. Levels are left 5 % below where they
// begin, so that nothing flaps. The same for the process and for one pod. Pure.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/base/memory_meter.h"

namespace qanat::ztunnel {

class Connection;

struct MemoryVerdict {
  MemoryLevel level = MemoryLevel::kPlenty;
  uint64_t excess = 0;  // bytes that must be had back now, by ending who holds them
};
// `before`: the level until now; `full_for`: since when it has been kFull without a break.
MemoryVerdict JudgeMemory(uint64_t used, uint64_t budget, MemoryLevel before,
                          std::chrono::milliseconds full_for);

// Below this it is scarce.
uint64_t ScarceFrom(uint64_t budget);

// A connection or tunnel and the memory of what waits in it.
struct MemoryHolder {
  size_t bytes = 0;
  size_t worker = 0;  // its index
  const Connection* connection = nullptr;
};
// The largest of all, as few as have `excess` bytes together; those with next to nothing never: it
// would cost connections and bring no memory. Order: largest first.
std::vector<MemoryHolder> LargestHolders(std::vector<MemoryHolder> all, uint64_t excess);

// Why nobody new is taken at present; "": somebody is.
std::string MemoryFull(const MemoryMeter& proxy, const MemoryMeter& pod);

}  // namespace qanat::ztunnel
