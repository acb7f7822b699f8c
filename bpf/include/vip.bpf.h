/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * A connection to a service: one draw among its endpoints, with the weights that the proxy would
 * pick by. What is drawn stays drawn: if it cannot be reached straight, the proxy is told of it by
 * the mark. So the shares of the endpoints are right whatever becomes of each connection.
 */
#ifndef QANAT_BPF_VIP_H
#define QANAT_BPF_VIP_H

#include "bpf/include/direct.bpf.h"

struct vip_case {
  struct qanat_ip dst; /* the service's; with the answer the endpoint's */
  __u32 port;          /* likewise */
  __u32 src_id;
  __u32 src_serial;
  /* answers */
  __u32 dst_serial; /* 0: cannot be reached straight, and dst and port are not the endpoint's */
  __u32 code;       /* 0: the proxy is not to be told */
  __u32 reserved;
};

/* 1: drawn. Not inlined, so that the verifier checks it once. */
__weak __attribute__((noinline)) int vip_draw(struct vip_case *c) {
  if (!c) return 0;
  struct qanat_vip_key key = {c->dst, c->src_serial, (__u16)c->port, 0};
  const struct qanat_vip *vip = bpf_map_lookup_elem(&vips, &key);
  if (!vip) {
    struct qanat_miss miss = {.key = {.src_serial = key.src_serial,
                                      .port = key.port,
                                      .family = ip_is_v4(&key.ip) ? 4 : 6},
                              .dst = key.ip};
    direct_ask(&miss, c->src_id);
    return 0;
  }
  __u32 total = vip->total;
  if (!total) return 0;
  __u32 at = bpf_get_prandom_u32() % total;
  __u32 which = 0;
  /* Without branches: paths are what a verifier counts. */
  for (int i = 0; i < QANAT_VIP_ENDPOINTS; i++) {
    __u32 until = vip->endpoints[i].until;
    __u32 beyond = ((__u64)until - at - 1) >> 63; /* at >= until */
    asm volatile("" : "+r"(beyond));
    which += beyond;
  }
  if (which >= QANAT_VIP_ENDPOINTS || which >= vip->count) return 0;
  const struct qanat_vip_endpoint *e = &vip->endpoints[which];
  c->dst_serial = e->dst_serial;
  c->code = e->code;
  if (c->dst_serial) {
    c->dst = e->ip;
    c->port = e->port;
  }
  return 1;
}

static __always_inline int vip_is_suspended(__u32 src_serial, __u32 dst_serial, __u32 port) {
  struct qanat_suspended_key key = {src_serial, dst_serial, port};
  const struct qanat_suspended *s = bpf_map_lookup_elem(&suspended, &key);
  return s && bpf_ktime_get_ns() < QANAT_FIELD(s->until_ns);
}

/* A drawn endpoint refused, or did not answer. */
static __always_inline void vip_suspend(const struct qanat_suspended_key *key) {
  __u64 now = bpf_ktime_get_ns();
  struct qanat_suspended fresh = {};
  const struct qanat_suspended *s = bpf_map_lookup_elem(&suspended, key);
  if (s && now < s->until_ns + 2 * QANAT_SUSPEND_MOST_NS) fresh.failures = s->failures & 31;
  __u64 time = QANAT_SUSPEND_FIRST_NS << (fresh.failures & 7);
  if (time > QANAT_SUSPEND_MOST_NS)
    time = QANAT_SUSPEND_MOST_NS;
  else
    fresh.failures++;
  fresh.until_ns = now + time;
  bpf_map_update_elem(&suspended, key, &fresh, BPF_ANY);
}

/* What getpeername() says of a connection that was drawn: what the application asked for. */
static __always_inline const struct qanat_direct_sk *vip_of_socket(struct bpf_sock_addr *ctx) {
  struct bpf_sock *sk = ctx->sk;
  asm volatile("" : "+r"(sk));
  if (!sk) return 0;
  const struct qanat_direct_sk *d = bpf_sk_storage_get(&direct_sk, sk, 0, 0);
  if (!d || !d->vip_port || d->port != bpf_ntohs((__u16)QANAT_CTX(ctx, user_port))) return 0;
  return d;
}

#endif /* QANAT_BPF_VIP_H */
