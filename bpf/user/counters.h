// SPDX-License-Identifier: Apache-2.0
// Names of the kernel counters, for metrics and for people.
#pragma once

#include <string_view>

#include "bpf/include/abi.h"

namespace qanat::bpf {

std::string_view CounterName(qanat_counter counter);  // "refused_device"
std::string_view CounterHelp(qanat_counter counter);  // one sentence

}  // namespace qanat::bpf
