// SPDX-License-Identifier: Apache-2.0
// The wiring: a fabric namespace with a bridge (the underlay, 10.90.0.0/24), a namespace a node, a
// namespace a pod; everything routed, dual stack. All links live between named namespaces, so
// removing the namespaces removes them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/netns/netns.h"
#include "tools/qanatctl/local/names.h"
#include "tools/qanatctl/local/plan.h"

namespace qanat::local {

struct PodNetwork {
  std::string netns;        // name below /run/netns
  std::string host_device;  // in the node's namespace
  int node_index = 0;
  int host = 0;  // the pod's number in the node's blocks
};

class Network {
 public:
  Network(Names names, uint32_t mtu) : names_(std::move(names)), mtu_(mtu) {}

  // Makes fabric and nodes; the folder /run/netns is made shareable as `ip netns` does it.
  Status MakeFabric();
  Status AddNode(const NodePlan& node, const std::vector<NodePlan>& all);
  Result<PodNetwork> AddPod(const std::string& ns, const std::string& pod, const std::string& uid,
                            const std::string& node, int node_index, int host);
  // The host side goes at once, so that the address can be used again; the namespace itself lives
  // on as long as somebody holds it open.
  Status RemovePod(const PodNetwork& pod, const std::string& node);

  Result<netns::NetNs> OpenNode(const std::string& node) const;
  Result<netns::NetNs> OpenFabric() const;

 private:
  Names names_;
  uint32_t mtu_;
};

// Makes /run/netns/<name>; the folder and its mount too when they are missing.
Status MakeNamedNetns(const std::string& name);
Status RemoveNamedNetns(const std::string& name);

}  // namespace qanat::local
