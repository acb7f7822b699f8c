// SPDX-License-Identifier: Apache-2.0
// Rights that a process gives up for good. Before there are threads: what it leaves is what all
// have.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "common/base/result.h"

namespace qanat::sandbox {

struct Capability {
  int number;
  const char* name;  // "NET_ADMIN"
};

struct CapabilitySets {
  uint64_t effective = 0, permitted = 0, inheritable = 0;
};
Result<CapabilitySets> ReadCapabilities();
inline bool Has(uint64_t set, int capability) { return (set >> capability & 1) != 0; }

// Out of the bounding set goes all but these. It matters to execve() only, which the filter
// forbids: as far as it can be (SETPCAP).
void BoundCapabilities(std::span<const Capability> kept);
// At most these stay, of them what it has; none are inherited by execve().
Status KeepCapabilities(std::span<const Capability> kept);
// "user 1337:1337, capabilities NET_ADMIN ...", for the log.
std::string Describe(std::span<const Capability> kept);

// No new privileges by execve, no core dump, no ptrace by equals, /proc entries that are root's.
Status SealProcess();

}  // namespace qanat::sandbox
