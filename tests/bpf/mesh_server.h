// SPDX-License-Identifier: Apache-2.0
// A control plane for a bed's agent: serves the workloads and policies that a test puts, and knows
// what the agent has acknowledged. A process of its own in the node's namespace, as the agent that
// it serves; the environment of programs started later says where it is.
#pragma once

#include <string>

#include "common/base/fd.h"
#include "common/proto/authorization.pb.h"
#include "common/proto/workload.pb.h"
#include "tests/bpf/bed.h"

namespace qanat::test {

class MeshServer {
 public:
  explicit MeshServer(const Bed& bed);  // before the agent is started

  void Put(const istio::workload::Workload& workload);
  void Put(const istio::workload::Service& service);
  void Put(const istio::security::Authorization& policy);
  void RemovePolicy(const std::string& name);  // "namespace/name"
  // Everything put so far has been acknowledged by the agent.
  bool WaitAcked(int milliseconds = 60000);
  // Meanwhile it answers nothing, as one that hangs.
  Process& process() { return process_; }

 private:
  void Tell(char what, char type, const std::string& name, const std::string& bytes);

  Fd control_;
  Process process_;
  unsigned told_ = 0, acked_ = 0;
};

// The pod as the mesh knows it.
istio::workload::Workload WorkloadOf(const Bed::PodInfo& pod);

}  // namespace qanat::test
