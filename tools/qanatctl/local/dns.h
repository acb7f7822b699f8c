// SPDX-License-Identifier: Apache-2.0
// Cluster DNS: the texts for one dnsmasq a node (configuration, host records) and for the pods'
// resolv.conf and hosts files. Pure.
#pragma once

#include <string>
#include <vector>

#include "common/kube/pod_dns.h"
#include "common/net/address.h"

namespace qanat::local {

struct DnsRecord {
  std::string name;  // full, without the last dot
  std::vector<net::IpAddress> ips;
};

std::string RenderDnsmasqConfig(const std::vector<net::IpAddress>& listen,
                                const std::string& hosts_file);
std::string RenderHostsRecords(const std::vector<DnsRecord>& records);
// What the nodes of a local mesh give their pods: the cluster's server is the node's, too, for
// there is none above it.
kube::NodeDns LocalNodeDns();
// As the kubelet would.
std::string RenderResolvConf(const kube::PodDns& pod, const std::string& ns);
std::string RenderPodHosts(const std::string& hostname, const std::string& fqdn,
                           const std::vector<net::IpAddress>& ips);

}  // namespace qanat::local
