// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// tcx ingress on an enrolled pod's devices: a SYN may come in only while the pod's sk_lookup is
// really there. It is asked, for each: a lookup from port 0, which no connection has, runs it and
// nothing else, and only it can answer. Without it the application's own listeners would get what
// the proxy has to see.
#include "bpf/include/kernel.h"
#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"
#include "bpf/include/packet.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 ingress_pod_id = 0;

static __always_inline int is_in_force(struct __sk_buff *skb, int offset, __u32 id) {
  struct qanat_tuple t = {};
  __u32 zero = 0;
  __u32 *answer = bpf_map_lookup_elem(&answers, &zero);
  if (!answer || read_tuple(skb, offset, &t)) return 0;
  *answer = 0;
  struct bpf_sock_tuple question = {};
  struct bpf_sock *sk;
  if (ip_is_v4(&t.dst)) {
    question.ipv4.saddr = t.src.word[3];
    question.ipv4.daddr = t.dst.word[3];
    question.ipv4.dport = bpf_htons(t.dport);
    sk = bpf_skc_lookup_tcp(skb, &question, sizeof(question.ipv4), BPF_F_CURRENT_NETNS, 0);
  } else {
    __builtin_memcpy(question.ipv6.saddr, t.src.word, sizeof(t.src.word));
    __builtin_memcpy(question.ipv6.daddr, t.dst.word, sizeof(t.dst.word));
    question.ipv6.dport = bpf_htons(t.dport);
    sk = bpf_skc_lookup_tcp(skb, &question, sizeof(question.ipv6), BPF_F_CURRENT_NETNS, 0);
  }
  if (sk) bpf_sk_release(sk);
  return QANAT_FIELD(*answer) == id;
}

SEC("tc")
int qanat_ingress(struct __sk_buff *skb) {
  if (is_later_segment(skb)) return TCX_NEXT;
  __u32 id = ingress_pod_id;
  struct qanat_pod_state *state = bpf_map_lookup_elem(&pod_state, &id);
  if (!state) return TCX_DROP;
  __u32 mode = QANAT_FIELD(state->mode);
  if (mode == QANAT_MODE_OFF || mode == QANAT_MODE_DRAIN) return TCX_NEXT;
  int offset = find_tcp(skb);
  if (!is_syn(skb, offset) || is_in_force(skb, offset, id)) return TCX_NEXT;
  count(id, QANAT_CNT_INBOUND_OPEN);
  return TCX_DROP;
}
