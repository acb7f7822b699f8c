// SPDX-License-Identifier: Apache-2.0
// Sockets on their way from one process to another.
#pragma once

#include "common/base/result.h"

namespace qanat::ztunnel {

// A socket that nobody owns any more must not look as if its stream had come to its end.
void ResetWhenClosed(int fd, bool on);
// Fails unless it is what connections are made of: TCP, and does not block.
Status CheckSocket(int fd);
// Fails unless it is of this thread's network namespace. One of another proxy's pod would go on
// until that pod's end takes away its interface, and then be silent.
Status CheckNamespace(int fd);

}  // namespace qanat::ztunnel
