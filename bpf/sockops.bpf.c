// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// sockops at the root cgroup: publishes and removes grants. Here the source port is known and the
// SYN has not left yet. Host sockets are only read.
#include "bpf/include/kernel.h"
#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline struct qanat_ip local_of(struct bpf_sock_ops *ctx, __u32 family) {
  if (family == AF_INET) return ip_v4(QANAT_CTX(ctx, local_ip4));
  struct qanat_ip ip = {{QANAT_CTX(ctx, local_ip6[0]), QANAT_CTX(ctx, local_ip6[1]),
                         QANAT_CTX(ctx, local_ip6[2]), QANAT_CTX(ctx, local_ip6[3])}};
  return ip;
}

static __always_inline struct qanat_ip remote_of(struct bpf_sock_ops *ctx, __u32 family) {
  if (family == AF_INET) return ip_v4(QANAT_CTX(ctx, remote_ip4));
  struct qanat_ip ip = {{QANAT_CTX(ctx, remote_ip6[0]), QANAT_CTX(ctx, remote_ip6[1]),
                         QANAT_CTX(ctx, remote_ip6[2]), QANAT_CTX(ctx, remote_ip6[3])}};
  return ip;
}

static __always_inline struct qanat_tuple outgoing(struct bpf_sock_ops *ctx) {
  __u32 family = QANAT_CTX(ctx, family);
  struct qanat_tuple t = {local_of(ctx, family), remote_of(ctx, family),
                          (__u16)QANAT_CTX(ctx, local_port),
                          (__u16)bpf_ntohl(QANAT_CTX(ctx, remote_port))};
  return t;
}

static __always_inline void give_back(const struct qanat_grant *grant) {
  __u64 source = grant->source;
  struct qanat_budget *b = bpf_map_lookup_elem(&budgets, &source);
  if (b) __sync_fetch_and_add(&b->in_flight, -1);
}

/* The entry goes; the budget is credited by the one who really removed it. */
static __always_inline void remove_grant(const struct qanat_tuple *tuple, __u64 only_socket) {
  struct qanat_grant *found = bpf_map_lookup_elem(&grants, tuple);
  if (!found) return;
  struct qanat_grant grant = *found;
  if (only_socket && grant.socket != only_socket) return;
  if (bpf_map_delete_elem(&grants, tuple) == 0) give_back(&grant);
}

/* 0 when the source may have one more grant in flight. */
static __always_inline int take_budget(__u64 source) {
  struct qanat_budget *b = bpf_map_lookup_elem(&budgets, &source);
  if (!b) {
    struct qanat_budget fresh = {};
    bpf_map_update_elem(&budgets, &source, &fresh, BPF_NOEXIST);
    b = bpf_map_lookup_elem(&budgets, &source);
    if (!b) return -1;
  }
  __u32 limit = b->limit ? b->limit : QANAT_BUDGET_DEFAULT;
  /* Signed: the agent's correction may race with a removal, and -1 in flight must not read as four
   * billion. */
  if ((__s32)QANAT_FIELD(b->in_flight) >= (__s32)limit) return -1;
  __sync_fetch_and_add(&b->in_flight, 1);
  return 0;
}

static __always_inline void on_connect(struct bpf_sock_ops *ctx, struct bpf_sock *sk) {
  struct qanat_origin_record *record = bpf_sk_storage_get(&origins, sk, 0, 0);
  if (!record) return;
  int host = record->origin == QANAT_ORIGIN_HOST;
  /* A stock proxy's sockets carry 0x539: only a proxy that has evaluated policy for this very
   * connection says 0x53c. */
  if (!host && QANAT_CTX(sk, mark) != QANAT_MARK_ONE_PASS) return;
  struct qanat_tuple tuple = outgoing(ctx);
  __u64 *target_cookie = bpf_map_lookup_elem(&pod_ips, &tuple.dst);
  __u64 source = bpf_get_netns_cookie(ctx);
  if (!target_cookie || *target_cookie == source) return; /* inside one pod no grant is used up */
  __u64 target = *target_cookie;
  struct qanat_pod *pod = bpf_map_lookup_elem(&pods, &target);
  if (!pod) return;
  __u32 id = pod->id;

  struct qanat_probe *probe = bpf_map_lookup_elem(&probes, &tuple);
  if (probe) { /* a probe must meet the proxy's listener, not the application */
    __sync_fetch_and_or(&probe->seen, QANAT_SEEN_SOCKOPS);
    return;
  }
  if (tuple.dport == QANAT_PORT_HBONE || tuple.dport == QANAT_PORT_OUTBOUND ||
      tuple.dport == QANAT_PORT_INBOUND)
    return;
  struct qanat_pod_state *state = bpf_map_lookup_elem(&pod_state, &id);
  if (!state || state->mode != QANAT_MODE_ENFORCED) return;
  if (take_budget(source)) {
    count(id, QANAT_CNT_GRANT_OVER_BUDGET);
    return;
  }
  struct qanat_grant grant = {source, bpf_get_socket_cookie(ctx), bpf_ktime_get_ns(), id,
                              state->generation};
  /* A tuple is one socket's: a leftover of it is void, and must not be credited twice. */
  remove_grant(&tuple, 0);
  if (bpf_map_update_elem(&grants, &tuple, &grant, BPF_ANY)) {
    give_back(&grant);
    count(id, QANAT_CNT_GRANT_FULL);
    return;
  }
  record->granted = 1;
  bpf_sock_ops_cb_flags_set(
      ctx, QANAT_CTX(ctx, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG);
  count(id, host ? QANAT_CNT_GRANT_HOST : QANAT_CNT_GRANT_PROXY);
}

/* The server side accepted: the grant is used up. Not earlier (with SYN cookies the ACK is looked up
 * again) and not at the client's ESTABLISHED (its ACK has not arrived yet). */
static __always_inline void on_accepted(struct bpf_sock_ops *ctx) {
  __u64 cookie = bpf_get_netns_cookie(ctx);
  if (!bpf_map_lookup_elem(&pods, &cookie)) return;
  __u32 family = QANAT_CTX(ctx, family);
  __u16 sport = (__u16)bpf_ntohl(QANAT_CTX(ctx, remote_port));
  __u16 dport = (__u16)QANAT_CTX(ctx, local_port);
  struct qanat_tuple tuple = {remote_of(ctx, family), local_of(ctx, family), sport, dport};
  remove_grant(&tuple, 0);
  if (family == AF_INET6) { /* a dual-stack listener's IPv4 child has family 10 */
    __u32 remote = QANAT_CTX(ctx, remote_ip4), local = QANAT_CTX(ctx, local_ip4);
    struct qanat_tuple v4 = {ip_v4(remote), ip_v4(local), sport, dport};
    remove_grant(&v4, 0);
  }
}

/* Only sockets that were granted something ask for this callback. */
static __always_inline void on_state(struct bpf_sock_ops *ctx, struct bpf_sock *sk) {
  if (QANAT_CTX(ctx, args[1]) != BPF_TCP_CLOSE) return;
  struct qanat_origin_record *record = bpf_sk_storage_get(&origins, sk, 0, 0);
  if (!record || !record->granted) return;
  record->granted = 0;
  struct qanat_tuple tuple = outgoing(ctx);
  remove_grant(&tuple, bpf_get_socket_cookie(ctx));
}

SEC("sockops")
int qanat_sockops(struct bpf_sock_ops *ctx) {
  __u32 op = QANAT_CTX(ctx, op);
  if (op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
    on_accepted(ctx);
    return 1;
  }
  if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_STATE_CB) return 1;
  struct bpf_sock *sk = ctx->sk;
  if (!sk) return 1;
  if (op == BPF_SOCK_OPS_TCP_CONNECT_CB)
    on_connect(ctx, sk);
  else
    on_state(ctx, sk);
  return 1;
}
