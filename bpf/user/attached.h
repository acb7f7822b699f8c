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
// Ids of all that run for sockets of processes in `cgroup_dir`: attached to it or to a group above.
// `inherited` false: only of those attached to this very group, which is a cheap question.
Result<std::vector<uint32_t>> ProgramIds(const std::string& cgroup_dir, AttachType type,
                                         bool inherited);
AttachedProgram DescribeProgram(uint32_t id);

}  // namespace qanat::bpf
