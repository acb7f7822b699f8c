// SPDX-License-Identifier: Apache-2.0
// Does somebody else on this node redirect pods' connections? Found out before a pod is enrolled,
// answered with a remedy. Stateless, on the agent's loop; Judge* are pure.
//
// Refused: another mesh's agent, which would capture the same pod twice, and a load balancer in
// connect() that really turns a service's address into a pod's, for it would pass by the service's
// policies and waypoint in silence. Whether one does is tried, not guessed from its name: Cilium's
// program is there also when it is told to leave pods alone.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bpf/user/attached.h"
#include "common/base/result.h"
#include "common/net/address.h"
#include "common/netns/netns.h"

namespace qanat::agent {

// Programs at connect() that are not ours, and what is known of them.
struct ForeignProgram {
  uint32_t id = 0;
  std::string name;
  std::string whose;     // "Cilium's socket load balancer"; "" when nobody we know
  std::string remedy;    // ... of its owner
  bool of_pods = false;  // at a group of pods: our own connect() does not come by it
};
std::vector<ForeignProgram> JudgePrograms(const std::vector<bpf::AttachedProgram>& programs);
// Those of the root group and of the pods' groups and all below them, at connect4 and connect6.
Result<std::vector<ForeignProgram>> FindForeignPrograms(const std::string& cgroup_root,
                                                        const std::vector<std::string>& pod_roots);

// Where a TCP connect() to `service` from inside the namespace really goes, after every program at
// connect() had its say. Sends one SYN.
Result<net::SocketAddress> WhereConnectGoes(const netns::NetNs& ns,
                                            const net::SocketAddress& service);
// A line of /proc/net/tcp or tcp6 of the socket with this inode; nothing when there is none.
std::optional<net::SocketAddress> RemoteOfInode(std::string_view proc_net_tcp, uint64_t inode);

struct NodeFacts {
  std::string cgroup_root;
  std::vector<std::string> pod_roots;
  net::SocketAddress service;  // the address of any Service with TCP; not set: names must do
};
// Sorted.
std::vector<uint32_t> ForeignProgramIds(const NodeFacts& node);
// An error keeps the pod as it is and says why: Istio's redirection inside (its ip rule, mark
// 0x111/0xfff), or a load balancer in connect().
Status CheckPod(const netns::NetNs& ns, const NodeFacts& node);

// Istio's agent in the chain of CNI plugins; "" when it is not.
struct ConfigFile {
  std::string name, content;
};
std::string JudgeCniChain(const std::vector<ConfigFile>& files);

}  // namespace qanat::agent
