// SPDX-License-Identifier: Apache-2.0
// The programs on devices where the kernel has no tcx (before 6.6): filters below the device's
// clsact, one in each direction. The codes that the programs return mean the same there. A filter
// has no link and no pin, but like these it stays when we go, and its program is replaced between
// two packets. Every call acts on the network namespace of the calling thread: use inside
// netns::NetNs::Run().
#pragma once

#include <cstdint>

#include "agent/redirect/rtnetlink.h"
#include "common/base/result.h"

namespace qanat::agent::tc {

// Puts our filter there, or another program into it.
Status Attach(int program_fd, uint32_t ifindex, rtnl::Direction direction);
// The id of the program in our filter; 0 when the filter is not there.
Result<uint32_t> ProgramAt(uint32_t ifindex, rtnl::Direction direction);
// Takes our filters away, and clsact with them when nobody else has a filter there. Nothing being
// there is fine.
Status Detach(uint32_t ifindex);

}  // namespace qanat::agent::tc
