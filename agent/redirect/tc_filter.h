// SPDX-License-Identifier: Apache-2.0
// The second guard where the kernel has no tcx (before 6.6): a filter on egress below the device's
// clsact. The codes that the guard returns mean the same there. It has no link and no pin, but like
// these it stays when we go, and its program is replaced between two packets. Every call acts on
// the network namespace of the calling thread: use inside netns::NetNs::Run().
#pragma once

#include <cstdint>

#include "common/base/result.h"

namespace qanat::agent::tc {

// Puts our filter there, or another program into it.
Status AttachEgress(int program_fd, uint32_t ifindex);
// The id of the program in our filter; 0 when the filter is not there.
Result<uint32_t> EgressProgram(uint32_t ifindex);
// Takes our filter away, and clsact with it when nobody else has a filter there. Nothing being
// there is fine.
Status DetachEgress(uint32_t ifindex);

}  // namespace qanat::agent::tc
