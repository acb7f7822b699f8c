// SPDX-License-Identifier: Apache-2.0
// The parts of Hooks that are about programs on devices. Private to redirect/.
#pragma once

#include <string>
#include <utility>

#include "agent/redirect/hooks.h"
#include "agent/redirect/rtnetlink.h"
#include "bpf/user/skeleton.h"
#include "host_hooks.skel.h"

namespace qanat::agent {

struct Hooks::HostPrograms {
  explicit HostPrograms(bpf::Skeleton<host_hooks> s) : skeleton(std::move(s)) {}
  int in() const { return bpf_program__fd(skeleton->progs.qanat_host_in); }
  int out() const { return bpf_program__fd(skeleton->progs.qanat_host_out); }
  bpf::Skeleton<host_hooks> skeleton;
};

struct Hooks::Place {
  const char* what;     // in the link's name
  const char* program;  // its name in the kernel
  rtnl::Direction direction;
  bool in_pod;  // else at the node's end
};

inline std::string PodLink(uint32_t id, const std::string& what) {
  return "pod-" + std::to_string(id) + "-" + what;
}

}  // namespace qanat::agent
