// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The second guard: tcx egress on an enrolled pod's devices. A SYN that leaves an enrolled pod must
// be the proxy's, or of a direct connection that sockops has published. Captured connections run
// over lo and never come here, so anything else means that capture was missing or was dodged (a
// changed mark, a raw socket, a nested namespace): dropped.
#include "bpf/include/kernel.h"
#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 guard_pod_id = 0;

enum { kFlagSyn = 0x02, kFlagAck = 0x10, kFlagsOffset = 13 };

/* Offset of the TCP header, 0: not TCP (or a later fragment), -1: cannot be told. */
static __always_inline int find_tcp(struct __sk_buff *skb) {
  /* Of the frame, not skb->protocol: a packet socket says there what it likes. */
  __u16 protocol = 0;
  if (bpf_skb_load_bytes(skb, ETH_HLEN - 2, &protocol, sizeof(protocol))) return -1;
  if (protocol == bpf_htons(ETH_P_IP)) {
    __u8 h[20];
    if (bpf_skb_load_bytes(skb, ETH_HLEN, h, sizeof(h))) return -1;
    if (h[9] != IPPROTO_TCP) return 0;
    if ((h[6] & 0x1f) || h[7]) return 0; /* not the first fragment */
    return ETH_HLEN + (h[0] & 0x0f) * 4;
  }
  if (protocol != bpf_htons(ETH_P_IPV6)) return 0;
  __u8 next = 0, h[8];
  if (bpf_skb_load_bytes(skb, ETH_HLEN + 6, &next, 1)) return -1;
  __u32 offset = ETH_HLEN + 40;
  for (int i = 0; i < 6; i++) {
    if (next == IPPROTO_TCP) return offset;
    if (next != 0 && next != 43 && next != 44 && next != 60) return 0; /* no extension header */
    if (bpf_skb_load_bytes(skb, offset, h, sizeof(h))) return -1;
    if (next == 44) {
      if (h[2] || (h[3] & 0xf8)) return 0;
      offset += 8;
    } else {
      offset += (h[1] + 1) * 8;
    }
    next = h[0];
  }
  return -1;
}

/* The agent's probe of this guard that lies at `offset`; 0: it is none. */
static __always_inline struct qanat_probe *find_probe(struct __sk_buff *skb, int offset) {
  __be16 ports[2];
  if (offset <= 0 || bpf_skb_load_bytes(skb, offset, ports, sizeof(ports))) return 0;
  if (bpf_ntohs(ports[1]) != QANAT_PORT_PROBE) return 0;
  struct qanat_tuple tuple = {.sport = bpf_ntohs(ports[0]), .dport = QANAT_PORT_PROBE};
  if (skb->protocol == bpf_htons(ETH_P_IP)) {
    __be32 v4[2];
    if (bpf_skb_load_bytes(skb, ETH_HLEN + 12, v4, sizeof(v4))) return 0;
    tuple.src = ip_v4(v4[0]);
    tuple.dst = ip_v4(v4[1]);
  } else {
    struct qanat_ip v6[2];
    if (bpf_skb_load_bytes(skb, ETH_HLEN + 8, v6, sizeof(v6))) return 0;
    tuple.src = v6[0];
    tuple.dst = v6[1];
  }
  return bpf_map_lookup_elem(&probes, &tuple);
}

/* Not TCP: it leaves as it is, and is told. What the kernel itself sends to find its neighbours and
 * its groups, and answers, are not the application's. */
static __always_inline void count_outside(struct __sk_buff *skb, __u32 id) {
  int v4 = skb->protocol == bpf_htons(ETH_P_IP);
  if (!v4 && skb->protocol != bpf_htons(ETH_P_IPV6)) return;
  __u8 h[8], kind = 0, fragment = 0;
  int length = 40;
  if (bpf_skb_load_bytes(skb, ETH_HLEN + (v4 ? 6 : 2), h, sizeof(h))) return;
  __u8 protocol = v4 ? h[3] : h[4];
  if (v4) {
    fragment = (h[0] & 0x1f) | h[1];
    if (bpf_skb_load_bytes(skb, ETH_HLEN, &kind, 1)) return;
    length = (kind & 0x0f) * 4;
  }
  if (fragment) return; /* the first one was counted */
  switch (protocol) {
    case IPPROTO_UDP: count(id, QANAT_CNT_OUTSIDE_UDP); return;
    case 132: count(id, QANAT_CNT_OUTSIDE_SCTP); return;
    case 1:
    case 58:
      if (!bpf_skb_load_bytes(skb, ETH_HLEN + length, &kind, 1) && kind == (v4 ? 8 : 128))
        count(id, QANAT_CNT_OUTSIDE_ICMP);
      return;
    case IPPROTO_TCP: /* a later fragment */
    case 2:           /* IGMP */
    case 0:
    case 43:
    case 44:
    case 60: return; /* IPv6 headers before the protocol's: MLD, later fragments */
    default: count(id, QANAT_CNT_OUTSIDE_OTHER);
  }
}

/* Its connect() was called while the pod was not captured, and the SYN is under way since. */
static __always_inline int is_early(struct __sk_buff *skb, struct bpf_sock *sk) {
  __u64 *since = bpf_sk_storage_get(&early, sk, 0, 0);
  if (!since) {
    __u64 cookie = bpf_get_socket_cookie(skb);
    since = bpf_map_lookup_elem(&early_cookies, &cookie);
  }
  return since && bpf_ktime_get_ns() - *since < QANAT_EARLY_NS;
}

SEC("tc")
int qanat_guard(struct __sk_buff *skb) {
  __u32 id = guard_pod_id;
  struct qanat_pod_state *state = bpf_map_lookup_elem(&pod_state, &id);
  if (!state) return TCX_DROP;
  __u32 mode = QANAT_FIELD(state->mode);
  int offset = find_tcp(skb);
  if (offset == 0) {
    if (mode == QANAT_MODE_ENFORCED || mode == QANAT_MODE_CUT) count_outside(skb, id);
    return TCX_NEXT;
  }
  __u8 flags = kFlagSyn;
  if (offset > 0 && bpf_skb_load_bytes(skb, offset + kFlagsOffset, &flags, 1)) flags = kFlagSyn;
  if ((flags & (kFlagSyn | kFlagAck)) != kFlagSyn) return TCX_NEXT;
  struct qanat_probe *probe = find_probe(skb, offset);
  if (probe) {
    probe->pod_id = id;
    __sync_fetch_and_or(&probe->seen, QANAT_SEEN_GUARD);
    return TCX_DROP;
  }
  if (mode == QANAT_MODE_OFF || mode == QANAT_MODE_DRAIN) return TCX_NEXT;
  struct bpf_sock *sk = skb->sk;
  if (sk) {
    sk = bpf_sk_fullsock(sk);
    if (sk) {
      struct qanat_origin_record *r = bpf_sk_storage_get(&origins, sk, 0, 0);
      if (r && r->origin == QANAT_ORIGIN_PROXY) return TCX_NEXT;
      /* Its tuple cannot change while it is in this state. */
      struct qanat_direct_sk *d = bpf_sk_storage_get(&direct_sk, sk, 0, 0);
      if (d && d->state == QANAT_DIRECT_GRANTED) return TCX_NEXT;
      if (mode == QANAT_MODE_ENFORCED && is_early(skb, sk)) {
        count(id, QANAT_CNT_GUARD_EARLY);
        return TCX_NEXT;
      }
    }
  }
  count(id, QANAT_CNT_GUARD_DROPPED);
  return TCX_DROP;
}
