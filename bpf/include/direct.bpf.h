/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * May an application's connection go straight to an application of this node? Asked twice for each:
 * in the connect hook, and in sockops just before the SYN leaves, because minutes can lie between
 * the two (TCP_FASTOPEN_CONNECT) and a revocation must not be overtaken.
 */
#ifndef QANAT_BPF_DIRECT_H
#define QANAT_BPF_DIRECT_H

#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"

struct direct_case {
  struct qanat_ip dst;
  __u64 source; /* netns cookie */
  __u32 src_id;
  __u32 src_serial;
  __u32 port;
  __u32 ask; /* no verdict: ask the agent */
  /* answers */
  __u32 dst_id;
  __u32 dst_serial;
  __u32 dst_generation;
  __u32 policy;
  __u32 generation; /* of the verdict */
  __u32 reserved;
};

/* Agent alive and wanting the direct path. */
static __always_inline const struct qanat_direct *direct_lease(void) {
  __u32 zero = 0;
  const struct qanat_direct *lease = bpf_map_lookup_elem(&direct, &zero);
  if (!lease || !lease->on || QANAT_FIELD(lease->lease_until) <= bpf_ktime_get_boot_ns()) return 0;
  return lease;
}

const volatile struct qanat_vip vip_asked __weak = {};

/* Not inlined and not static, so that the verifier checks it once (see cgroup_kind). One question
 * for each key: the entry that says "asked" is what stops the second. */
__weak __attribute__((noinline)) int direct_ask(const struct qanat_miss *miss, __u32 src_id) {
  if (!miss) return 0;
  __u32 id = src_id;
  __u32 *open = bpf_map_lookup_elem(&asked, &id);
  if (!open) return 0;
  struct qanat_miss event = *miss;
  struct qanat_verdict pending = {.what = QANAT_VERDICT_ASKED};
  if ((__s32)QANAT_FIELD(*open) >= QANAT_MAX_ASKED) {
    count(id, QANAT_CNT_DIRECT_NOT_ASKED);
    return 0;
  }
  struct qanat_vip_key vip = {event.dst, event.key.src_serial, event.key.port, 0};
  int is_vip = event.key.dst_serial == 0;
  if (is_vip ? bpf_map_update_elem(&vips, &vip, (const void *)&vip_asked, BPF_NOEXIST)
             : bpf_map_update_elem(&verdicts, &event.key, &pending, BPF_NOEXIST))
    return 0;
  __sync_fetch_and_add(open, 1);
  if (bpf_ringbuf_output(&misses, &event, sizeof(event), 0)) { /* nobody reads: ask again later */
    if (is_vip)
      bpf_map_delete_elem(&vips, &vip);
    else
      bpf_map_delete_elem(&verdicts, &event.key);
    __sync_fetch_and_add(open, -1);
    count(id, QANAT_CNT_DIRECT_NOT_ASKED);
    return 0;
  }
  count(id, QANAT_CNT_DIRECT_ASKED);
  return 0;
}

enum {
  DIRECT_NO = 0,     /* everything that is not certain: the proxy decides */
  DIRECT_YES = 1,    /* and the answers are filled in */
  DIRECT_NO_POD = 2, /* the source's connections may, but this is the address of no pod here */
};
__weak __attribute__((noinline)) int direct_decide(struct direct_case *c) {
  if (!c) return 0;
  const struct qanat_direct *lease = direct_lease();
  if (!lease) return 0;
  __u32 floor = QANAT_FIELD(lease->generation);

  __u32 src_id = c->src_id;
  const struct qanat_pod_state *from = bpf_map_lookup_elem(&pod_state, &src_id);
  if (!from || QANAT_FIELD(from->mode) != QANAT_MODE_ENFORCED ||
      !(QANAT_FIELD(from->flags) & QANAT_DIRECT_FROM))
    return 0;

  struct qanat_miss miss = {.dst = c->dst};
  const __u64 *owner = bpf_map_lookup_elem(&pod_ips, &miss.dst);
  if (!owner) return DIRECT_NO_POD;
  if (*owner == c->source) return 0;
  __u64 cookie = *owner;
  const struct qanat_pod *pod = bpf_map_lookup_elem(&pods, &cookie);
  if (!pod) return 0;
  __u32 dst_id = pod->id;
  const struct qanat_pod_state *to = bpf_map_lookup_elem(&pod_state, &dst_id);
  if (!to || QANAT_FIELD(to->mode) != QANAT_MODE_ENFORCED ||
      !(QANAT_FIELD(to->flags) & QANAT_DIRECT_TO))
    return 0;
  __u32 port = c->port;
  if (port == QANAT_PORT_OUTBOUND || port == QANAT_PORT_INBOUND || port == QANAT_PORT_HBONE ||
      port == QANAT_PORT_PROBE)
    return 0;

  miss.key.src_serial = c->src_serial;
  miss.key.dst_serial = pod->serial;
  miss.key.port = (__u16)port;
  miss.key.family = ip_is_v4(&miss.dst) ? 4 : 6;
  const struct qanat_verdict *verdict = bpf_map_lookup_elem(&verdicts, &miss.key);
  if (!verdict) {
    if (c->ask) direct_ask(&miss, src_id);
    return 0;
  }
  __u32 generation = verdict->generation;
  if (verdict->what != QANAT_VERDICT_DIRECT || generation < floor ||
      generation < QANAT_FIELD(to->floor))
    return 0;
  c->dst_id = dst_id;
  c->dst_serial = miss.key.dst_serial;
  c->dst_generation = QANAT_FIELD(to->generation);
  c->policy = verdict->policy;
  c->generation = generation;
  return DIRECT_YES;
}

#endif /* QANAT_BPF_DIRECT_H */
