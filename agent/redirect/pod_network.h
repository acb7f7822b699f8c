// SPDX-License-Identifier: Apache-2.0
// What capture needs inside a pod's network namespace besides programs: two ip rules and one route
// per address family, three sysctls. Applied before the flip (they touch only marked traffic),
// restored on un-enrolment. Stateless; blocking for microseconds.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "agent/redirect/rtnetlink.h"
#include "common/base/result.h"
#include "common/net/address.h"
#include "common/netns/netns.h"

namespace qanat::agent {

// sysctl path below /proc/sys/net -> value before we changed it
using SavedSysctls = std::map<std::string, std::string>;

struct PodFacts {
  std::vector<uint32_t> devices;  // interfaces other than lo
  std::vector<rtnl::Interface> interfaces;
  std::vector<net::IpAddress> others;  // addresses besides the pod's, of any interface
  uint16_t spoof_low = 0;              // the port range left to the proxy's spoofed sources
  uint16_t spoof_high = 0;
};

// Compares the pod's addresses with the namespace's: each must be there. The identity of an end is
// its namespace, so a pod file that names another pod's namespace must not pass. kUnimplemented:
// this kind of pod cannot be captured, for it does not use the kernel's sockets.
Result<PodFacts> InspectPod(const netns::NetNs& ns, const std::vector<net::IpAddress>& ips);

// Its interfaces other than lo, whatever addresses they have.
Result<std::vector<uint32_t>> DevicesIn(const netns::NetNs& ns);

// Addresses of its interfaces other than lo, in the interfaces' order; none when the namespace
// cannot be entered.
std::vector<net::IpAddress> AddressesIn(const std::string& netns_path);

// What shows that a pod makes its packets itself (own_stack.h); "" when nothing does.
Result<std::string> LookForOwnStack(const netns::NetNs& ns);

// Idempotent. Adds to `saved` what it changes and does not know yet.
Status ApplyPodNetwork(const netns::NetNs& ns, const std::vector<net::IpAddress>& ips,
                       SavedSysctls* saved);
// Asks the kernel where marked traffic would go: two questions a family instead of lists of rules
// and routes, and what somebody else put in front is seen too. An error names the first fault.
Status CheckPodNetwork(const netns::NetNs& ns, const std::vector<net::IpAddress>& ips);
Status RestorePodNetwork(const netns::NetNs& ns, const SavedSysctls& saved);

// The last resort when capture is broken and cannot be repaired: all TCP of the pod that is not
// local is dropped by routing, which needs none of our programs.
Status CutOffTcp(const netns::NetNs& ns);
Status EndCutOff(const netns::NetNs& ns);

// Pure: where spoofed sources may take ports, given net.ipv4.ip_local_port_range.
PodFacts SpoofRange(unsigned ephemeral_low, unsigned ephemeral_high);

}  // namespace qanat::agent
