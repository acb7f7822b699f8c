// SPDX-License-Identifier: Apache-2.0
// What our node proxy is told about the DNS of each pod: a file DIR/UID beside the proxy's socket
// (its reader: ztunnel/dns/pod_dns.h), written before the pod is handed to it and again whenever
// something of it changes. Stock proxies do not look. Lives on the agent's loop.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "agent/pods/pod.h"
#include "common/kube/pod_dns.h"

namespace qanat::agent {

struct DnsFilesOptions {
  std::string dir;
  // The kubelet's clusterDNS. None: not known here. The proxy then uses those of its own
  // resolv.conf, which the kubelet has written by the same rules (it runs with ClusterFirst).
  std::vector<std::string> cluster_servers;
  std::string cluster_domain = "cluster.local";
  // The node's, as the kubelet gives it to a pod with dnsPolicy Default: ours is one.
  std::string resolv_conf = "/etc/resolv.conf";
};

// {"nameservers":[...],"search":[...],"ndots":5}; without "nameservers" where they would be the
// cluster's and nobody told us, and then "more_nameservers" are those that come after them.
std::string FormatDnsFile(const Pod& pod, const kube::NodeDns& node);

class DnsFiles {
 public:
  explicit DnsFiles(DnsFilesOptions options) : options_(std::move(options)) {}
  // Failures are logged and tried again with the pod's next change: DNS is no reason to keep a pod
  // from starting.
  void Put(const Pod& pod);
  void Remove(const std::string& uid);
  // Files that somebody has removed are written again.
  void Restore();
  // Everything that exists was put: the other files are of pods that went while we were away.
  void OnSynced();

 private:
  Status Write(const std::string& uid, const std::string& content) const;
  std::string PathOf(const std::string& uid) const { return options_.dir + "/" + uid; }

  const DnsFilesOptions options_;
  std::map<std::string, std::string> written_;  // by uid
  bool complained_ = false;                     // of the node's resolv.conf
};

}  // namespace qanat::agent
