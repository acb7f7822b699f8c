// SPDX-License-Identifier: Apache-2.0
// The system calls that the proxy may make beside those of common/sandbox/calls.h.
#pragma once

#include <span>

namespace qanat::ztunnel::sandbox {

std::span<const int> OwnCalls();

}  // namespace qanat::ztunnel::sandbox
