// SPDX-License-Identifier: Apache-2.0
#include "bpf/user/counters.h"

namespace qanat::bpf {
namespace {

struct Entry {
  std::string_view name;
  std::string_view help;
};

Entry EntryOf(qanat_counter counter) {
  switch (counter) {
    case QANAT_CNT_CAPTURED: return {"captured", "outgoing connections marked for the proxy"};
    case QANAT_CNT_LOCAL: return {"local", "connections to loopback or the pod itself, untouched"};
    case QANAT_CNT_PROXY_OUT: return {"proxy_out", "the proxy's own connections"};
    case QANAT_CNT_PROXY_LO_LEG: return {"proxy_lo_leg", "connections proxy to application"};
    case QANAT_CNT_PROXY_BIND: return {"proxy_bind", "spoofed binds that were given a port"};
    case QANAT_CNT_UNBOUND_DEVICE:
      return {"unbound_device", "sockets whose SO_BINDTODEVICE was undone"};
    case QANAT_CNT_UDP: return {"udp", "UDP connects, which are not captured"};
    case QANAT_CNT_REFUSED_DEVICE:
      return {"refused_device", "refused: bound to a device without CAP_NET_RAW"};
    case QANAT_CNT_REFUSED_MARK:
      return {"refused_mark", "refused: the capture mark could not be set"};
    case QANAT_CNT_REFUSED_LINK_LOCAL:
      return {"refused_link_local", "refused: TCP to an IPv6 link-local address"};
    case QANAT_CNT_REFUSED_FAMILY:
      return {"refused_family", "refused: the pod has no address of this family"};
    case QANAT_CNT_REFUSED_CUT:
      return {"refused_cut", "refused: capture is broken, the pod is cut off"};
    case QANAT_CNT_REFUSED_STORAGE: return {"refused_storage", "no memory for socket storage"};
    case QANAT_CNT_TO_OUTBOUND: return {"to_outbound", "connections given to 15001"};
    case QANAT_CNT_TO_INBOUND: return {"to_inbound", "plaintext connections given to 15006"};
    case QANAT_CNT_TO_HBONE: return {"to_hbone", "connections given to 15008"};
    case QANAT_CNT_DROP_PROXY_PORT:
      return {"drop_proxy_port", "dropped: from outside to 15001 or 15006"};
    case QANAT_CNT_DROP_NO_LISTENER: return {"drop_no_listener", "dropped: the proxy is away"};
    case QANAT_CNT_DROP_ASSIGN: return {"drop_assign", "dropped: the kernel refused the listener"};
    case QANAT_CNT_GRANT_HOST: return {"grant_host", "grants for probes of the node"};
    case QANAT_CNT_GRANT_PROXY: return {"grant_proxy", "grants for one-pass connections"};
    case QANAT_CNT_GRANT_USED: return {"grant_used", "SYNs that passed by a grant"};
    case QANAT_CNT_GRANT_STALE:
      return {"grant_stale", "grants that were too old or of another generation"};
    case QANAT_CNT_GRANT_OVER_BUDGET:
      return {"grant_over_budget", "not granted: too many in flight from one source"};
    case QANAT_CNT_GRANT_FULL: return {"grant_full", "not granted: the map is full"};
    case QANAT_CNT_GUARD_DROPPED:
      return {"guard_dropped", "dropped: a SYN that was leaving uncaptured"};
    case QANAT_CNT_DIRECT:
      return {"direct", "connections that went straight to the application's pod"};
    case QANAT_CNT_DIRECT_ACCEPTED:
      return {"direct_accepted", "direct connections that the application's pod accepted"};
    case QANAT_CNT_DIRECT_RETAKEN:
      return {"direct_retaken", "captured after all: something changed since connect()"};
    case QANAT_CNT_DIRECT_FLOW_FULL:
      return {"direct_flow_full", "captured: no room in the table of direct connections"};
    case QANAT_CNT_DIRECT_ASKED:
      return {"direct_asked", "captured, and the agent was asked for a verdict"};
    case QANAT_CNT_DIRECT_NOT_ASKED:
      return {"direct_not_asked", "captured, and too many questions are open"};
    case QANAT_CNT_DNS: return {"dns", "DNS questions by UDP given to the proxy"};
    case QANAT_CNT_DNS_TCP: return {"dns_tcp", "DNS connections given to the proxy"};
    case QANAT_CNT_DNS_FULL:
      return {"dns_full", "DNS questions left alone: too many servers are asked"};
    case QANAT_CNT_DNS_DEVICE:
      return {"dns_device", "DNS questions left alone: the socket is bound to a device"};
    case QANAT_CNT_DNS_DROPPED:
      return {"dns_dropped", "dropped: to the DNS proxy, or from a server not asked, from outside"};
    case QANAT_CNT_PLAIN_INBOUND:
      return {"plain_inbound", "let in uncaptured, as the pod's annotation asks"};
    case QANAT_CNT_GUARD_EARLY:
      return {"guard_early", "SYNs that passed: their connect began before the capture"};
    case QANAT_CNT_OUTSIDE_UDP: return {"outside_udp", "UDP packets that left, not captured"};
    case QANAT_CNT_OUTSIDE_ICMP: return {"outside_icmp", "pings that left, not captured"};
    case QANAT_CNT_OUTSIDE_SCTP: return {"outside_sctp", "SCTP packets that left, not captured"};
    case QANAT_CNT_OUTSIDE_OTHER:
      return {"outside_other", "packets of another protocol that left, not captured"};
    case QANAT_CNT_FOREIGN_SOURCE:
      return {"foreign_source", "dropped: packets from a source that is not the pod's"};
    case QANAT_CNT_UNSIGNED_SYN:
      return {"unsigned_syn", "dropped: a SYN that passed the pod's second guard by"};
    case QANAT_CNT_GRANT_FORGED:
      return {"grant_forged", "dropped: a SYN with another pod's granted addresses and ports"};
    case QANAT_CNT_INBOUND_OPEN:
      return {"inbound_open", "dropped: a SYN from outside while the pod's sk_lookup was away"};
    case QANAT_CNT_VIP_DIRECT:
      return {"vip_direct", "connections to services that went straight to the drawn endpoint"};
    case QANAT_CNT_VIP_PROXY:
      return {"vip_proxy", "connections to services whose drawn endpoint the proxy reaches"};
    case QANAT_CNT_VIP_SUSPENDED:
      return {"vip_suspended", "the drawn endpoint did not answer lately: the proxy picks"};
    case QANAT_CNT_RECORDS_LOST:
      return {"records_lost", "records of connections that were lost: the agent did not read"};
    case QANAT_COUNTERS: break;
  }
  return {"unknown", ""};
}

}  // namespace

std::string_view CounterName(qanat_counter counter) { return EntryOf(counter).name; }
std::string_view CounterHelp(qanat_counter counter) { return EntryOf(counter).help; }

}  // namespace qanat::bpf
