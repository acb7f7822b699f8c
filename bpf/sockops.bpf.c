// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// sockops at the root cgroup: publishes and removes grants and direct connections, and records
// those of applications. Here the source port is known and the SYN has not left yet. Host sockets
// are only read.
#include "bpf/include/direct.bpf.h"
#include "bpf/include/grants.bpf.h"
#include "bpf/include/kernel.h"
#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"
#include "bpf/include/record.bpf.h"
#include "bpf/include/vip.bpf.h"

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

/* With the mark of the capture, or of one to a service that the connect hook drew an endpoint for. */
static __always_inline int is_captured(__u32 mark) {
  return mark == QANAT_MARK_CAPTURE || (mark & QANAT_MARK_MASK) == QANAT_MARK_DRAWN;
}

static __always_inline void watch_close(struct bpf_sock_ops *ctx) {
  bpf_sock_ops_cb_flags_set(ctx,
                            QANAT_CTX(ctx, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* The tuple becomes a flow and a grant. Anything but 0 leaves neither. */
static __always_inline int admit(struct bpf_sock_ops *ctx, const struct qanat_tuple *tuple,
                                 struct direct_case *c) {
  if (direct_decide(c) != DIRECT_YES) return -1;
  __u64 now = bpf_ktime_get_ns();
  struct qanat_flow flow = {.client = bpf_get_socket_cookie(ctx),
                            .time_ns = now,
                            .src_serial = c->src_serial,
                            .dst_serial = c->dst_serial,
                            .policy = c->policy,
                            .generation = c->generation};
  /* A tuple is one socket's: a leftover of it is void. */
  if (bpf_map_update_elem(&flows, tuple, &flow, BPF_ANY)) {
    count(c->src_id, QANAT_CNT_DIRECT_FLOW_FULL);
    return -1;
  }
  struct qanat_grant grant = {.source = c->source,
                              .socket = flow.client,
                              .time_ns = now,
                              .pod_id = c->dst_id,
                              .generation = c->dst_generation,
                              .kind = QANAT_GRANT_DIRECT,
                              .verdict = c->generation};
  if (put_grant(tuple, &grant) == 0) return 0;
  bpf_map_delete_elem(&flows, tuple);
  return -1;
}

/* The connect hook took it off the proxy's path. If that no longer holds, the mark that it would
 * have got is set now: tcp_connect() looks its route up again after this callback. */
static __always_inline void on_connect_direct(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
                                              struct qanat_direct_sk *d) {
  __u32 mark = QANAT_CTX(sk, mark);
  d->state = QANAT_DIRECT_NONE;
  if (is_captured(mark)) return; /* a later connect() of this socket was captured */
  __u64 source = bpf_get_netns_cookie(ctx);
  struct qanat_pod *pod = bpf_map_lookup_elem(&pods, &source);
  if (!pod) return; /* it left the mesh */
  struct qanat_tuple tuple = outgoing(ctx);
  __u32 id = pod->id;
  struct direct_case c = {.dst = tuple.dst,
                          .source = source,
                          .src_id = id,
                          .src_serial = pod->serial,
                          .port = tuple.dport};
  /* A mark, a device or a source of another kind was set since. */
  if (mark == 0 && !QANAT_CTX(sk, bound_dev_if) && ip_is_pods(pod, &tuple.src) &&
      admit(ctx, &tuple, &c) == 0) {
    d->src_serial = c.src_serial;
    d->dst_serial = c.dst_serial;
    d->policy = c.policy;
    d->generation = c.generation;
    d->state = QANAT_DIRECT_GRANTED;
    if (record_connections) record_begin(d, pod->serial, QANAT_PATH_DIRECT, 0);
    watch_close(ctx);
    count(id, QANAT_CNT_DIRECT);
    if (d->vip_port) count(id, QANAT_CNT_VIP_DIRECT);
    return;
  }
  /* For a drawn one too, now to the endpoint's own address: its policies hold as they did. */
  mark = QANAT_MARK_CAPTURE; /* should it fail, the second guard drops the SYN */
  bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
  count(id, QANAT_CNT_DIRECT_RETAKEN);
  if (!record_connections) return;
  record_begin(d, pod->serial, QANAT_PATH_CAPTURED, 0);
  watch_close(ctx);
}

/* An application's connection that the connect hook gave to the proxy. */
static __always_inline void on_connect_captured(struct bpf_sock_ops *ctx, struct bpf_sock *sk) {
  __u64 source = bpf_get_netns_cookie(ctx);
  struct qanat_pod *pod = bpf_map_lookup_elem(&pods, &source);
  if (!pod) return; /* the mark means something in pods only */
  if (bpf_ntohl(QANAT_CTX(ctx, remote_port)) == QANAT_PORT_PROBE) {
    struct qanat_tuple tuple = outgoing(ctx);
    if (bpf_map_lookup_elem(&probes, &tuple)) return;
  }
  struct qanat_direct_sk *d =
      bpf_sk_storage_get(&direct_sk, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!d) return;
  d->state = QANAT_DIRECT_NONE;
  record_begin(d, pod->serial, QANAT_PATH_CAPTURED, 0);
  watch_close(ctx);
}

static __always_inline void on_connect(struct bpf_sock_ops *ctx, struct bpf_sock *sk) {
  struct qanat_direct_sk *d = bpf_sk_storage_get(&direct_sk, sk, 0, 0);
  if (d && d->state == QANAT_DIRECT_CHOSEN) {
    on_connect_direct(ctx, sk, d);
    /* Else what was chosen is long over, and this connect() was captured. */
    if (d->path || !is_captured(QANAT_CTX(sk, mark))) return;
  }
  if (record_connections && is_captured(QANAT_CTX(sk, mark)))
    on_connect_captured(ctx, sk);
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
  struct qanat_grant grant = {.source = source,
                              .socket = bpf_get_socket_cookie(ctx),
                              .time_ns = bpf_ktime_get_ns(),
                              .pod_id = id,
                              .generation = state->generation,
                              .kind = host ? QANAT_GRANT_HOST : QANAT_GRANT_PROXY};
  if (put_grant(&tuple, &grant)) return;
  record->granted = 1;
  watch_close(ctx);
  count(id, host ? QANAT_CNT_GRANT_HOST : QANAT_CNT_GRANT_PROXY);
}

/* This end was admitted by that tuple's grant: the grant is used up. Returns its kind. */
static __always_inline __u32 accepted_by(struct bpf_sock_ops *ctx, __u32 id,
                                         const struct qanat_tuple *tuple,
                                         struct qanat_direct_sk *end) {
  struct qanat_grant *grant = bpf_map_lookup_elem(&grants, tuple);
  if (!grant) return 0;
  __u32 kind = grant->kind;
  remove_grant(tuple, 0);
  if (kind != QANAT_GRANT_DIRECT) return kind;
  struct qanat_flow *flow = bpf_map_lookup_elem(&flows, tuple);
  if (!flow) return 0; /* the client is gone already */
  flow->server = bpf_get_socket_cookie(ctx);
  count(id, QANAT_CNT_DIRECT_ACCEPTED);
  end->state = QANAT_DIRECT_SERVER;
  end->src_serial = flow->src_serial;
  end->dst_serial = flow->dst_serial;
  end->policy = flow->policy;
  end->generation = flow->generation;
  end->port = tuple->dport;
  return kind;
}

/* The application's end of a connection, by the grant that let it in or by the mark that the leg
 * from the proxy has over lo. The proxy's own have neither, nor have those inside the pod. */
static __always_inline __u32 path_of_accepted(__u32 kind, __u32 mark) {
  switch (kind) {
    case QANAT_GRANT_DIRECT: return QANAT_PATH_DIRECT;
    case QANAT_GRANT_PROXY: return QANAT_PATH_ONE_PASS;
    case QANAT_GRANT_HOST: return QANAT_PATH_PROBE;
  }
  return mark == QANAT_MARK_LO_LEG ? QANAT_PATH_PROXIED : QANAT_PATH_NONE;
}

/* The server side accepted: not earlier (with SYN cookies the ACK is looked up again) and not at
 * the client's ESTABLISHED (its ACK has not arrived yet). */
static __always_inline void on_accepted(struct bpf_sock_ops *ctx) {
  __u64 cookie = bpf_get_netns_cookie(ctx);
  struct qanat_pod *pod = bpf_map_lookup_elem(&pods, &cookie);
  if (!pod) return;
  __u32 id = pod->id, serial = pod->serial;
  __u32 family = QANAT_CTX(ctx, family);
  __u16 sport = (__u16)bpf_ntohl(QANAT_CTX(ctx, remote_port));
  __u16 dport = (__u16)QANAT_CTX(ctx, local_port);
  struct qanat_tuple tuple = {remote_of(ctx, family), local_of(ctx, family), sport, dport};
  struct qanat_direct_sk end = {};
  __u32 kind = accepted_by(ctx, id, &tuple, &end);
  if (!kind && family == AF_INET6) { /* a dual-stack listener's IPv4 child has family 10 */
    __u32 remote = QANAT_CTX(ctx, remote_ip4), local = QANAT_CTX(ctx, local_ip4);
    struct qanat_tuple v4 = {ip_v4(remote), ip_v4(local), sport, dport};
    kind = accepted_by(ctx, id, &v4, &end);
  }
  struct bpf_sock *sk = ctx->sk;
  if (!sk) return;
  __u32 path = record_connections ? path_of_accepted(kind, QANAT_CTX(sk, mark)) : QANAT_PATH_NONE;
  if (path)
    record_begin(&end, serial, path, 1);
  else if (end.state != QANAT_DIRECT_SERVER)
    return;
  if (!bpf_sk_storage_get(&direct_sk, sk, &end, BPF_SK_STORAGE_GET_F_CREATE)) return;
  if (path) watch_close(ctx);
}

/* Did a drawn endpoint answer? A connect() that its application gave up before the first SYN was
 * sent again says nothing. */
static __always_inline void note_outcome(struct bpf_sock_ops *ctx, const struct qanat_direct_sk *d,
                                         __u32 state) {
  struct qanat_suspended_key key = {d->src_serial, d->dst_serial, d->port};
  if (state == BPF_TCP_ESTABLISHED) {
    if (bpf_map_lookup_elem(&suspended, &key)) bpf_map_delete_elem(&suspended, &key);
  } else if (QANAT_CTX(ctx, segs_in) || QANAT_CTX(ctx, total_retrans)) {
    vip_suspend(&key);
  }
}

/* As a client's key has it: an IPv4 connection of a dual-stack socket is IPv4. */
static __always_inline struct qanat_tuple own_tuple(struct bpf_sock_ops *ctx) {
  struct qanat_tuple tuple = outgoing(ctx);
  if (ip_is_any(&tuple.src)) {
    tuple.src = ip_v4(QANAT_CTX(ctx, local_ip4));
    tuple.dst = ip_v4(QANAT_CTX(ctx, remote_ip4));
  }
  return tuple;
}

/* Only sockets that were granted something or are recorded ask for this callback. */
static __always_inline void on_state(struct bpf_sock_ops *ctx, struct bpf_sock *sk) {
  __u32 state = QANAT_CTX(ctx, args[1]);
  if (state != BPF_TCP_CLOSE && state != BPF_TCP_ESTABLISHED) return;
  struct qanat_direct_sk *d = bpf_sk_storage_get(&direct_sk, sk, 0, 0);
  if (QANAT_CTX(ctx, args[0]) == BPF_TCP_SYN_SENT && d && d->state == QANAT_DIRECT_GRANTED && d->vip_port)
    note_outcome(ctx, d, state);
  if (state == BPF_TCP_ESTABLISHED) {
    if (d && d->path && !d->established_ns) d->established_ns = bpf_ktime_get_ns();
    return;
  }
  struct qanat_origin_record *record = bpf_sk_storage_get(&origins, sk, 0, 0);
  int is_direct = d && d->state == QANAT_DIRECT_GRANTED;
  int is_granted = record && record->granted;
  struct qanat_tuple tuple = own_tuple(ctx);
  if (record_connections && d && d->path) record_close(ctx, &tuple);
  if (!is_direct && !is_granted) return;
  if (d) d->state = QANAT_DIRECT_NONE;
  if (record) record->granted = 0;
  __u64 self = bpf_get_socket_cookie(ctx);
  remove_grant(&tuple, self);
  if (!is_direct) return;
  struct qanat_flow *flow = bpf_map_lookup_elem(&flows, &tuple);
  if (flow && flow->client == self) bpf_map_delete_elem(&flows, &tuple);
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
