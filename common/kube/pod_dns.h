// SPDX-License-Identifier: Apache-2.0
// What the kubelet writes into a pod's /etc/resolv.conf, from spec.dnsPolicy and spec.dnsConfig of
// the pod and what it knows of the node: for those who must know it without looking into the pod.
// Pure. Source of the rules: Kubernetes, pkg/kubelet/network/dns.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qanat::kube {

// The parts of a pod's spec that count.
struct PodDns {
  std::string policy;  // ClusterFirst, ClusterFirstWithHostNet, Default, None; "" is ClusterFirst
  bool host_network = false;
  std::vector<std::string> servers, searches;  // of dnsConfig, as they are written there
  std::vector<std::pair<std::string, std::optional<std::string>>> options;
  bool operator==(const PodDns&) const = default;
};
// `spec` is a pod's spec. What is not of its type in the API is left out.
PodDns ReadPodDns(const nlohmann::json& spec);

// A resolv.conf as the kubelet reads and writes it: nothing in it is looked at more closely.
struct ResolvConf {
  std::vector<std::string> servers, searches, options;
  bool operator==(const ResolvConf&) const = default;
};
ResolvConf ParseResolvConf(std::string_view text);
std::string FormatResolvConf(const ResolvConf& conf);

struct NodeDns {
  std::vector<std::string>
      cluster_servers;         // the kubelet's clusterDNS; none: Default holds for all
  std::string cluster_domain;  // "cluster.local"; "": no search list of the cluster's
  ResolvConf node;             // the kubelet's resolvConf
};

// Whether the cluster's name servers come first (or the node's, or none).
bool UsesClusterDns(const PodDns& pod);
// Within the kubelet's limits: 3 servers, 32 search domains of 253 characters, 2048 in all.
ResolvConf ResolverOf(const PodDns& pod, std::string_view ns, const NodeDns& node);

// Names with fewer dots are tried with the search list first; 1 where no option says otherwise.
unsigned Ndots(const ResolvConf& conf);

}  // namespace qanat::kube
