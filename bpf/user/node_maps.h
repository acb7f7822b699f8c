// SPDX-License-Identifier: Apache-2.0
// The pinned maps of one node, typed. The agent writes them; qanatctl may open the same directory
// to look.
#pragma once

#include <string>

#include "bpf/include/abi.h"
#include "bpf/user/map.h"
#include "common/net/address.h"

namespace qanat::bpf {

struct NodeMaps {
  static Result<NodeMaps> Open(const std::string& dir);

  Map<__u32, qanat_abi> abi;
  Map<__u32, qanat_config> config;
  Map<__u64, qanat_pod> pods;
  Map<qanat_ip, __u64> pod_ips;
  Map<qanat_own_ip, __u8> own_ips;
  Map<__u32, qanat_pod_state> pod_state;
  // Write: a socket's fd. Read: the socket's cookie (that is what the kernel shows of a SOCKMAP).
  Map<__u32, __u64> listeners;
  Map<qanat_tuple, qanat_grant> grants;
  Map<__u64, qanat_budget> budgets;
  Map<qanat_tuple, qanat_probe> probes;
  Map<__u32, qanat_dns_table> dns_tables;
  Map<__u32, __u32> dns_on;  // qanat_dns_families
  Map<__u64, __u64> early_cookies;
  PerCpuMap<__u32, qanat_counters> counters;
  Map<__u32, qanat_direct> direct;
  Map<qanat_verdict_key, qanat_verdict> verdicts;
  Map<qanat_vip_key, qanat_vip> vips;
  Map<qanat_suspended_key, qanat_suspended> suspended;
  Map<__u32, __u32> asked;
  Map<qanat_tuple, qanat_flow> flows;
  Map<__u32, qanat_host_end> host_ends;
  Map<qanat_own_ip, __u8> source_ips;

  Result<qanat_counters> CountersOf(uint32_t pod_id) const;  // summed over the CPUs
  // From here on no connection is let past the proxy by a verdict. Live ones stay.
  Status EndLease();
  // A serial that no pod of this node ever had.
  Result<uint32_t> TakeSerial();
};

qanat_ip ToKernel(const net::IpAddress& ip);
net::IpAddress FromKernel(const qanat_ip& ip);  // none when all zero
qanat_tuple ToKernel(const net::SocketAddress& source, const net::SocketAddress& destination);

}  // namespace qanat::bpf
