// SPDX-License-Identifier: Apache-2.0
// What the agent's parts are told, from its flags and from what the node is like.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "agent/app.h"
#include "agent/cluster/cluster.h"
#include "agent/pods/source.h"
#include "common/net/address.h"

namespace qanat::agent {

bool InCluster(const Config& config);
std::string StateDir(const Config& config);
std::string DnsDir(const Config& config);  // what the proxy is told about the pods' DNS
Result<std::string> CgroupRoot(const Config& config);
// Where pods live: given, or beside us (the local mode's NODE/agent and NODE/pods), or where the
// kubelet put us, or puts pods. Pods of the node's network live there too: they are no probes.
std::vector<std::string> PodRoots(const Config& config, const std::string& cgroup_root);
// The address of a Service, to find out whether connect() to one is rewritten in pods.
Result<net::SocketAddress> ProbeService(const Config& config);

Result<std::unique_ptr<PodSource>> MakeFolderSource(event::EventLoop& loop,
                                                    const std::string& spec);
Result<std::unique_ptr<Cluster>> MakeCluster(event::EventLoop& loop, const Config& config);

}  // namespace qanat::agent
