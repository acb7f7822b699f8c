// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/dns.h"

#include <fmt/format.h>

#include "tools/qanatctl/local/ipam.h"

namespace qanat::local {

std::string RenderDnsmasqConfig(const std::vector<net::IpAddress>& listen,
                                const std::string& hosts_file) {
  std::string out =
      "no-resolv\nno-hosts\nno-poll\nbind-interfaces\nlocal-ttl=2\ncache-size=0\n"
      "user=root\ngroup=root\nlog-facility=-\n"
      // Names of the cluster are answered here or not at all; there is no server above.
      "local=/cluster.local/\n";
  for (const net::IpAddress& ip : listen) out += "listen-address=" + ip.ToString() + "\n";
  return out + "addn-hosts=" + hosts_file + "\n";
}

std::string RenderHostsRecords(const std::vector<DnsRecord>& records) {
  std::string out;
  for (const DnsRecord& record : records) {
    for (const net::IpAddress& ip : record.ips) out += ip.ToString() + " " + record.name + "\n";
  }
  return out;
}

kube::NodeDns LocalNodeDns() {
  const std::vector<std::string> servers = {DnsV4().ToString()};
  return {servers, "cluster.local", {servers, {}, {}}};
}

std::string RenderResolvConf(const kube::PodDns& pod, const std::string& ns) {
  return kube::FormatResolvConf(kube::ResolverOf(pod, ns, LocalNodeDns()));
}

std::string RenderPodHosts(const std::string& hostname, const std::string& fqdn,
                           const std::vector<net::IpAddress>& ips) {
  std::string out = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
  for (const net::IpAddress& ip : ips) {
    out += ip.ToString() + "\t" + (fqdn.empty() ? "" : fqdn + "\t") + hostname + "\n";
  }
  return out;
}

}  // namespace qanat::local
