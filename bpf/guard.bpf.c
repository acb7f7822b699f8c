// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The second guard: tcx egress on an enrolled pod's devices. A SYN that leaves an enrolled pod must
// be the proxy's, or of a direct connection that sockops has published. Captured connections run
// over lo and never come here, so anything else means that capture was missing or was dodged (a
// changed mark, a raw socket, a nested namespace): dropped.
#include "bpf/include/kernel.h"
#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"
#include "bpf/include/packet.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 guard_pod_id = 0;

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

/* The node's end of the veth lets no SYN out of the pod that does not carry this: what passes by
 * this program passes by the sign, too. A captured pod's other packets are of no interest there. */
static __always_inline int let_out(struct __sk_buff *skb) {
  skb->tc_index = QANAT_SYN_SIGN;
  return TCX_NEXT;
}

SEC("tc")
int qanat_guard(struct __sk_buff *skb) {
  if (is_later_segment(skb)) return TCX_NEXT;
  __u32 id = guard_pod_id;
  struct qanat_pod_state *state = bpf_map_lookup_elem(&pod_state, &id);
  if (!state) return TCX_DROP;
  __u32 mode = QANAT_FIELD(state->mode);
  int offset = find_tcp(skb);
  if (offset == 0) {
    if (mode == QANAT_MODE_ENFORCED || mode == QANAT_MODE_CUT) count_outside(skb, id);
    return TCX_NEXT;
  }
  if (!is_syn(skb, offset)) return TCX_NEXT;
  struct qanat_probe *probe = find_probe(skb, offset);
  if (probe) {
    probe->pod_id = id;
    __sync_fetch_and_or(&probe->seen, QANAT_SEEN_GUARD);
    return is_traveller(probe) ? let_out(skb) : TCX_DROP;
  }
  if (mode == QANAT_MODE_OFF || mode == QANAT_MODE_DRAIN) return let_out(skb);
  struct bpf_sock *sk = skb->sk;
  if (sk) {
    sk = bpf_sk_fullsock(sk);
    if (sk) {
      struct qanat_origin_record *r = bpf_sk_storage_get(&origins, sk, 0, 0);
      if (r && r->origin == QANAT_ORIGIN_PROXY) return let_out(skb);
      /* Its tuple cannot change while it is in this state. */
      struct qanat_direct_sk *d = bpf_sk_storage_get(&direct_sk, sk, 0, 0);
      if (d && d->state == QANAT_DIRECT_GRANTED) return let_out(skb);
      if (mode == QANAT_MODE_ENFORCED && is_early(skb, sk)) {
        count(id, QANAT_CNT_GUARD_EARLY);
        return let_out(skb);
      }
    }
  }
  count(id, QANAT_CNT_GUARD_DROPPED);
  return TCX_DROP;
}
