// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// tcx egress at the node's end of an enrolled pod's veth: what is about to enter the pod. A tuple
// that the direct path has granted is honoured only from the pod that it was granted to: the
// interface that a packet came in by cannot be made up, by a neighbour that is not in the mesh or
// by anybody outside.
#include "bpf/include/kernel.h"
#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"
#include "bpf/include/packet.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The agent waits for a probe from a certain pod, and this one from there has another source. */
static __always_inline int is_translated(const struct qanat_tuple *tuple, __u32 from) {
  struct qanat_tuple any = {.dst = tuple->dst, .dport = tuple->dport};
  struct qanat_probe *probe = bpf_map_lookup_elem(&probes, &any);
  if (!probe || probe->slot != from) return 0;
  const struct qanat_host_end *end = bpf_map_lookup_elem(&host_ends, &from);
  if (!end || ip_equal(&tuple->src, &end->ip4) || ip_equal(&tuple->src, &end->ip6)) return 0;
  __sync_fetch_and_or(&probe->seen, QANAT_SEEN_OTHER_SOURCE);
  return 1;
}

SEC("tc")
int qanat_host_out(struct __sk_buff *skb) {
  if (is_later_segment(skb)) return TCX_NEXT;
  int offset = find_tcp(skb);
  if (!is_syn(skb, offset)) return TCX_NEXT;
  __u32 device = skb->ifindex, from = skb->ingress_ifindex;
  struct qanat_tuple tuple = {};
  if (read_tuple(skb, offset, &tuple) == 0) {
    if (tuple.dport == QANAT_PORT_PROBE) {
      struct qanat_probe *probe = bpf_map_lookup_elem(&probes, &tuple);
      if (probe && is_traveller(probe)) {
        __u32 seen = probe->slot == from ? QANAT_SEEN_HOST_OUT : QANAT_SEEN_OTHER_WAY;
        __sync_fetch_and_or(&probe->seen, seen);
        return TCX_DROP;
      }
      if (!probe && is_translated(&tuple, from)) return TCX_DROP;
    }
    struct qanat_grant *grant = bpf_map_lookup_elem(&grants, &tuple);
    if (!grant || grant->kind != QANAT_GRANT_DIRECT) return TCX_NEXT;
    const struct qanat_host_end *source = bpf_map_lookup_elem(&host_ends, &from);
    if (source && source->netns == grant->source) return TCX_NEXT;
  }
  const struct qanat_host_end *end = bpf_map_lookup_elem(&host_ends, &device);
  if (end) count(end->pod_id, QANAT_CNT_GRANT_FORGED);
  return TCX_DROP;
}
