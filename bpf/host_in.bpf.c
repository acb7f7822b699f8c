// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// tcx ingress at the node's end of an enrolled pod's veth: what comes out of the pod, looked at
// where nothing in the pod can reach. Its source must be the pod's own, and a SYN must have passed
// the pod's second guard: a packet socket with PACKET_QDISC_BYPASS, or AF_XDP, does not.
#include "bpf/include/kernel.h"
#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"
#include "bpf/include/packet.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline int is_allowed(const struct qanat_host_end *end, const struct qanat_ip *ip) {
  if (ip_is_any(ip)) return 1; /* nobody's: DHCP, DAD, probes of ARP */
  if (ip_equal(ip, &end->ip4) || ip_equal(ip, &end->ip6)) return 1;
  struct qanat_own_ip key = {end->pod_id, *ip};
  return bpf_map_lookup_elem(&source_ips, &key) != 0;
}

/* A claim to an address, in a neighbour advertisement, needs that address too. */
static __always_inline int is_own_v6(struct __sk_buff *skb, const struct qanat_host_end *end) {
  struct qanat_ip ip;
  if (bpf_skb_load_bytes(skb, ETH_HLEN + 8, &ip, sizeof(ip))) return 0;
  if (!ip_is_v6_link_local(&ip) && !is_allowed(end, &ip)) return 0;
  __u8 type = 0;
  int found = transport_of(skb), offset = found & 0xffff;
  if (found < 0) return 0;
  if (found >> 16 != 58) return 1;
  if (bpf_skb_load_bytes(skb, offset, &type, 1)) return 0;
  if (type != 136) return 1;
  if (bpf_skb_load_bytes(skb, offset + 8, &ip, sizeof(ip))) return 0;
  return ip_is_v6_link_local(&ip) || is_allowed(end, &ip);
}

static __always_inline int is_own_arp(struct __sk_buff *skb, const struct qanat_host_end *end) {
  __u16 h[4];
  __u32 sender;
  if (bpf_skb_load_bytes(skb, ETH_HLEN, h, sizeof(h))) return 0;
  /* Of Ethernet and IPv4, with addresses of their sizes. */
  if (h[0] != bpf_htons(1) || h[1] != bpf_htons(ETH_P_IP) || h[2] != bpf_htons(0x0604)) return 0;
  if (bpf_skb_load_bytes(skb, ETH_HLEN + 14, &sender, sizeof(sender))) return 0;
  struct qanat_ip ip = ip_v4(sender);
  return is_allowed(end, &ip);
}

/* Not inlined and not static, so that the verifier checks it once and not for every path. */
__weak __attribute__((noinline)) int is_own_besides(struct __sk_buff *skb) {
  __u32 device = skb->ifindex;
  const struct qanat_host_end *end = bpf_map_lookup_elem(&host_ends, &device);
  __u16 type = frame_type(skb);
  if (!end || !type || is_tagged(type)) return 0;
  if (type == bpf_htons(ETH_P_IP)) {
    __u32 source;
    if (bpf_skb_load_bytes(skb, ETH_HLEN + 12, &source, sizeof(source))) return 0;
    struct qanat_ip ip = ip_v4(source);
    return is_allowed(end, &ip);
  }
  if (type == bpf_htons(ETH_P_IPV6)) return is_own_v6(skb, end);
  if (type == bpf_htons(ETH_P_ARP)) return is_own_arp(skb, end);
  return 1;
}

static __always_inline int is_own(struct __sk_buff *skb, const struct qanat_host_end *end) {
  if (QANAT_FIELD(end->flags) & QANAT_END_ANY_SOURCE) return 1;
  const __u8 *d = (void *)(long)skb->data, *stop = (void *)(long)skb->data_end;
  /* Nearly all of it. */
  if (d + ETH_HLEN + 40 <= stop) {
    __u16 type = *(const __u16 *)(d + ETH_HLEN - 2);
    if (type == bpf_htons(ETH_P_IP) &&
        *(const __u32 *)(d + ETH_HLEN + 12) == end->ip4.word[3] && end->ip4.word[3])
      return 1;
    __u8 next = d[ETH_HLEN + 6];
    if (type == bpf_htons(ETH_P_IPV6) && (next == IPPROTO_TCP || next == IPPROTO_UDP) &&
        ip_equal((const struct qanat_ip *)(d + ETH_HLEN + 8), &end->ip6))
      return 1;
  }
  return is_own_besides(skb);
}

SEC("tc")
int qanat_host_in(struct __sk_buff *skb) {
  __u32 device = skb->ifindex;
  struct qanat_host_end *end = bpf_map_lookup_elem(&host_ends, &device);
  if (!end) return TCX_DROP;
  __u32 id = end->pod_id;
  struct qanat_pod_state *state = bpf_map_lookup_elem(&pod_state, &id);
  if (!state) return TCX_DROP;
  __u32 mode = QANAT_FIELD(state->mode);
  int closed = mode != QANAT_MODE_OFF && mode != QANAT_MODE_DRAIN;
  int own = is_own(skb, end);
  if ((own || !closed) && is_later_segment(skb)) return TCX_NEXT;

  int offset = find_tcp(skb), syn = is_syn(skb, offset), is_signed = 0;
  if (syn) {
    is_signed = skb->tc_index == QANAT_SYN_SIGN;
    if (is_signed) skb->tc_index = 0;
    struct qanat_probe *probe = find_probe(skb, offset);
    if (probe && !is_traveller(probe)) { /* it was to be stopped before this */
      __sync_fetch_and_or(&probe->seen, QANAT_SEEN_HOST_IN);
      return TCX_DROP;
    }
    if (probe) {
      probe->slot = device;
      __u32 seen = QANAT_SEEN_HOST_IN | (own ? 0 : QANAT_SEEN_STOPPED);
      if (is_signed) seen |= QANAT_SEEN_SIGNED;
      __sync_fetch_and_or(&probe->seen, seen);
      struct qanat_tuple tuple = {};
      /* To a pod it goes on, to the other end of its way; any other has come far enough. */
      if (!own || read_tuple(skb, offset, &tuple) || !bpf_map_lookup_elem(&pod_ips, &tuple.dst))
        return TCX_DROP;
      return TCX_NEXT;
    }
  }
  if (!closed) return TCX_NEXT;
  if (!own) {
    count(id, QANAT_CNT_FOREIGN_SOURCE);
    return TCX_DROP;
  }
  if (syn && !is_signed && (QANAT_FIELD(end->flags) & QANAT_END_SIGNED)) {
    count(id, QANAT_CNT_UNSIGNED_SYN);
    return TCX_DROP;
  }
  return TCX_NEXT;
}
