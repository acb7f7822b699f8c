// SPDX-License-Identifier: Apache-2.0
// Whose programs run at a control group: ours, and those of others.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bpf/user/link.h"
#include "common/base/result.h"

namespace qanat::bpf {

struct AttachedProgram {
  uint32_t id = 0;
  std::string name;  // at most 15 characters, as the kernel keeps them; "" when it has none
};
// All that run for sockets of processes in `cgroup_dir`: attached to it or to a group above.
Result<std::vector<AttachedProgram>> EffectivePrograms(const std::string& cgroup_dir,
                                                       AttachType type);

}  // namespace qanat::bpf
