// SPDX-License-Identifier: Apache-2.0
// For tests: what a check of rights says in a process that has only some of them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "common/base/result.h"

namespace qanat::test {

// The error's message of a child process that has only these capabilities (bits of CAP_*, effective
// and permitted); "" where there is none. Who has not got them cannot give them.
std::string SaidWith(uint64_t capabilities, const std::function<Status()>& check);

}  // namespace qanat::test
