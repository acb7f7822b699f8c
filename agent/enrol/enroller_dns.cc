// SPDX-License-Identifier: Apache-2.0
// DNS of a pod: to the proxy where that listens for it in the pod and the pod wants it. It stays so
// while no proxy is there: questions are refused then, and none goes past it.
#include "agent/enrol/entry.h"
#include "agent/redirect/dns_switch.h"
#include "common/base/log.h"

namespace qanat::agent {

Result<bool> Enroller::SwitchDns(Entry& entry, const std::vector<FoundDns>& found) {
  uint32_t families = 0;
  for (const FoundDns& dns : found)
    if (dns.netns_cookie == entry.cookie) families |= dns.families;
  if (!entry.pod.Ip6().is_set()) families &= ~static_cast<uint32_t>(QANAT_DNS_V6);
  if (!entry.wishes.dns_capture.value_or(options_.dns_capture)) families = 0;
  if (families == entry.dns) return false;
  QANAT_ASSIGN_OR_RETURN(netns::NetNs ns, OpenNs(entry));
  entry.dns = families;
  QANAT_RETURN_IF_ERROR(KeepDns(entry, ns));
  LOG_INFO("enrol", "{}: DNS {}", entry.pod.FullName(),
           families != 0 ? "goes to the proxy" : "goes to the servers themselves");
  Save(entry);
  return true;
}

Result<bool> Enroller::KeepDns(Entry& entry, const netns::NetNs& ns) {
  // New questions of a pod that leaves go to the servers themselves.
  const bool leaving = entry.draining() && !entry.membership.in_mesh;
  return EnsureDns(hooks_.maps(), entry.id, ns, leaving ? 0 : entry.dns);
}

}  // namespace qanat::agent
