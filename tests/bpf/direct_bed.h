// SPDX-License-Identifier: Apache-2.0
// Two pods of the mesh and one beside it, for the direct path. By default the agent stands still,
// so that a test writes the kernel's tables itself: lease, verdicts and the pods' flags. Pins and
// listeners keep everything else going.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bpf/user/node_maps.h"
#include "tests/bpf/bed.h"

namespace qanat::test {

class DirectBed {
 public:
  explicit DirectBed(const std::string& name);
  // The agent goes on. `before_agent`: with pods that it does not know yet.
  DirectBed(const std::string& name, const std::function<void(DirectBed&)>& before_agent);

  // Everything as the direct path needs it, and no verdict.
  void Reset();
  void SetLease(double seconds, uint32_t generation = 1, bool on = true);
  void SetFlags(const Bed::PodInfo& pod, uint32_t flags, uint32_t floor = 0);
  void SetMode(const Bed::PodInfo& pod, qanat_mode mode);
  qanat_pod KernelPod(const Bed::PodInfo& pod);
  uint64_t Cookie(const Bed::PodInfo& pod);
  // For both families.
  void SetVerdict(uint16_t port, uint32_t what = QANAT_VERDICT_DIRECT, uint32_t generation = 1);
  qanat_verdict_key Key(uint16_t port, uint8_t family);
  // What pod a's connections to a service's address are drawn among. Those with an `ip` are pod b.
  struct VipEndpoint {
    uint32_t weight = 1;
    uint32_t code = 0;
    std::string ip;
    uint16_t port = 8080;
    bool stale = false;  // the serial is of a pod that was there before
  };
  void SetVip(const std::string& ip, uint16_t port, const std::vector<VipEndpoint>& endpoints);
  uint64_t Counter(const Bed::PodInfo& pod, qanat_counter which);
  // "" when neither grants nor flows nor grants in flight are left; waits a little.
  std::string Leftovers();

  std::string From(const Bed::PodInfo& pod, const Dial& dial);
  // A Python program in the pod, which gets `ip` and `port` as arguments; what it printed. With
  // `between` it is held at input(), until that was done.
  std::string Python(const Bed::PodInfo& pod, const std::string& program,
                     const std::function<void()>& between = {});

  Bed bed;
  Bed::PodInfo a, b, n;  // n is not in the mesh
  bpf::NodeMaps maps;

 private:
  std::vector<Process> servers_;
};

}  // namespace qanat::test
