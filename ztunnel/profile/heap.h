// SPDX-License-Identifier: Apache-2.0
// Who holds the memory: one allocation in so many bytes is remembered with its stack until it is
// freed (operator new and delete, operator_new.cc; under ASan its hooks, which see malloc,
// too). An allocation that is not picked costs a subtraction, a free that is not of a picked one a
// look into a small table. Of the process, hence functions and not an object; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "common/base/result.h"
#include "ztunnel/profile/pprof.h"

namespace qanat::ztunnel::profile {

inline constexpr uint64_t kHeapSampleEvery = 512 << 10;  // bytes; as Go

// From now on; once it has begun it goes on, with the first rate. An error where allocations are
// not seen: the program was linked without operator_new.cc. `every` 0: nothing is begun.
Status StartHeapProfile(uint64_t every = kHeapSampleEvery);

// What is live now and what was allocated since the start, by stack: sample types and their order
// are those of Go's heap profile. An error says why there is none.
Result<Profile> HeapProfile();

// While it is off nothing more is remembered; what was is until it is freed.
void SetHeapSampling(bool on);
bool HeapSampling();

// For operator_new.cc: an allocation was made, or is about to be freed; `caller` wanted it.
void NoteAllocation(void* memory, size_t size, void* caller);
void NoteFree(void* memory);

}  // namespace qanat::ztunnel::profile
