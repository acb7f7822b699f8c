/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * The decision of cgroup/connect4 and connect6, once for both: they differ only in which context
 * fields they may read. Returns 1 (go on) or 0 (refused; the errno is set).
 */
#ifndef QANAT_BPF_CONNECT_H
#define QANAT_BPF_CONNECT_H

#include "bpf/include/cgroup.bpf.h"
#include "bpf/include/direct.bpf.h"
#include "bpf/include/kernel.h"
#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"
#include "bpf/include/vip.bpf.h"

static __always_inline int refuse(__u32 pod_id, enum qanat_counter why, int error) {
  count(pod_id, why);
  bpf_set_retval(-error); /* without it the application would see EPERM */
  return 0;
}

static __always_inline int set_mark(struct bpf_sock_addr *ctx, __u32 mark) {
  return bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
}

static __always_inline int remember_origin(struct bpf_sock *sk, __u32 origin) {
  struct qanat_origin_record *r = bpf_sk_storage_get(&origins, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!r) return -1;
  r->origin = origin;
  r->granted = 0;
  return 0;
}

/* The pod is not captured now. It may be before this connection's SYN is answered. */
static __always_inline int connect_early(struct bpf_sock *sk) {
  __u64 *since = bpf_sk_storage_get(&early, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (since) *since = bpf_ktime_get_ns();
  return 1;
}

static __always_inline void forget_early(struct bpf_sock_addr *ctx, struct bpf_sock *sk) {
  __u64 cookie = bpf_get_socket_cookie(ctx);
  bpf_sk_storage_delete(&early, sk);
  if (bpf_map_lookup_elem(&early_cookies, &cookie)) bpf_map_delete_elem(&early_cookies, &cookie);
}

/* A socket of some namespace that is no pod of ours. Only the node's own sockets that head for one
 * of our pods are noted, for sockops; nothing is changed and nothing is ever refused. */
static __always_inline int connect_from_elsewhere(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                                  __u64 cookie, const struct qanat_ip *src,
                                                  const struct qanat_ip *dst) {
  __u32 zero = 0;
  struct qanat_config *cfg = bpf_map_lookup_elem(&config, &zero);
  if (!cfg || cfg->host_cookie != cookie) return 1;
  if (!bpf_map_lookup_elem(&pod_ips, dst)) return 1;
  struct qanat_probe *probe = 0;
  __u16 port = bpf_ntohs((__u16)QANAT_CTX(ctx, user_port));
  if (port == QANAT_PORT_PROBE || port == QANAT_PORT_HBONE) {
    struct qanat_tuple tuple = {*src, *dst, (__u16)QANAT_CTX(sk, src_port), port};
    probe = bpf_map_lookup_elem(&probes, &tuple);
  }
  if (probe) /* the agent may itself run in a pod's cgroup */
    __sync_fetch_and_or(&probe->seen, QANAT_SEEN_CONNECT);
  /* Without a known root of the pods' cgroups a pod's process could not be told apart. */
  else if (!cfg->pod_roots[0].id || cgroup_kind() != CGROUP_OTHER)
    return 1;
  if (remember_origin(sk, QANAT_ORIGIN_HOST)) count(0, QANAT_CNT_REFUSED_STORAGE);
  return 1;
}

/* A socket of the ZDS peer in a pod's namespace. A stock proxy marks every socket 0x539 and knows
 * nothing of capture, so the leg to the application is told apart by what it is: a foreign source
 * that connects to the pod's own address. */
static __always_inline int connect_from_proxy(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                              const struct qanat_pod *pod,
                                              const struct qanat_ip *src,
                                              const struct qanat_ip *dst) {
  if (ip_is_pods(pod, dst) || is_other_own(pod->id, dst)) {
    if (ip_is_any(src) || ip_is_pods(pod, src) || ip_is_loopback(src)) return 1;
    char lo[4] = "lo";
    /* Over lo by device: else the route to an own address reports eth0 as where the SYN came in,
     * and the pod's lookup would give it back to the proxy. */
    if (set_mark(ctx, QANAT_MARK_LO_LEG) ||
        bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTODEVICE, lo, sizeof(lo)))
      return refuse(pod->id, QANAT_CNT_REFUSED_MARK, ECONNREFUSED);
    count(pod->id, QANAT_CNT_PROXY_LO_LEG);
    return 1;
  }
  __u32 mark = sk->mark;
  if (mark != QANAT_MARK_PROXY && mark != QANAT_MARK_ONE_PASS &&
      set_mark(ctx, QANAT_MARK_PROXY)) /* a mark with an ip rule would come back to the proxy */
    return refuse(pod->id, QANAT_CNT_REFUSED_MARK, ECONNREFUSED);
  if (remember_origin(sk, QANAT_ORIGIN_PROXY))
    return refuse(pod->id, QANAT_CNT_REFUSED_STORAGE, ECONNREFUSED);
  count(pod->id, QANAT_CNT_PROXY_OUT);
  return 1;
}

/* 0: a kernel without MPTCP, which would refuse to load the question. */
const volatile __u32 kernel_has_mptcp __weak = 1;

/* What becomes of a connection besides going on or not. */
struct connect_change {
  struct qanat_ip dst;
  __u32 port; /* 0: goes where it wants to; else to `dst` */
  __u32 mark; /* if it is captured */
};

/* To no pod's own address: to a service's? DIRECT_YES: then `c` says where to, and `change`. */
static __always_inline int choose_endpoint(struct direct_case *c, struct connect_change *change) {
  struct vip_case vip = {
      .dst = c->dst, .port = c->port, .src_id = c->src_id, .src_serial = c->src_serial};
  if (!vip_draw(&vip)) return DIRECT_NO;
  if (vip.dst_serial) {
    c->dst = vip.dst;
    c->port = vip.port;
    if (vip_is_suspended(c->src_serial, vip.dst_serial, vip.port)) {
      count(c->src_id, QANAT_CNT_VIP_SUSPENDED);
      return DIRECT_NO;
    }
    if (direct_decide(c) == DIRECT_YES && c->dst_serial == vip.dst_serial) {
      change->dst = vip.dst;
      change->port = vip.port;
      return DIRECT_YES;
    }
  }
  count(c->src_id, QANAT_CNT_VIP_PROXY);
  if (vip.code) change->mark = QANAT_MARK_DRAWN | vip.code << QANAT_DRAW_SHIFT;
  return DIRECT_NO;
}

/* Off the proxy's path by a verdict? Plain TCP only: an MPTCP connection may move to other addresses
 * (its subflows come here as TCP). Not if it is bound to a device or to a source that is not the
 * pod's. */
static __always_inline int choose_direct(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                         __u64 cookie, const struct qanat_pod *pod,
                                         const struct qanat_ip *src, const struct qanat_ip *dst,
                                         struct connect_change *change) {
  if (QANAT_CTX(ctx, protocol) != IPPROTO_TCP || QANAT_CTX(sk, bound_dev_if)) return 0;
  if (!ip_is_any(src) && !ip_is_pods(pod, src)) return 0;
  if (kernel_has_mptcp && bpf_skc_to_mptcp_sock(sk)) return 0;
  __u32 port = bpf_ntohs((__u16)QANAT_CTX(ctx, user_port));
  struct direct_case c = {.dst = *dst,
                          .source = cookie,
                          .src_id = pod->id,
                          .src_serial = pod->serial,
                          .port = port,
                          .ask = 1};
  int answer = direct_decide(&c);
  if (answer == DIRECT_NO_POD) answer = choose_endpoint(&c, change);
  if (answer != DIRECT_YES) return 0;
  /* With CAP_NET_RAW an application may have set one, and it may have an ip rule. */
  if (QANAT_CTX(sk, mark) && set_mark(ctx, 0)) goto captured;
  struct qanat_direct_sk *d = bpf_sk_storage_get(&direct_sk, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!d) goto captured;
  d->state = QANAT_DIRECT_CHOSEN;
  d->src_serial = c.src_serial;
  d->dst_serial = c.dst_serial;
  d->policy = c.policy;
  d->generation = c.generation;
  d->port = c.port;
  if (change->port) {
    d->vip_port = port;
    d->vip = *dst;
  }
  return 1;
captured:
  change->port = 0;
  return 0;
}

/* What getpeername() would say of an earlier connection of this socket. */
static __always_inline void forget_vip(struct bpf_sock *sk) {
  struct qanat_direct_sk *d = bpf_sk_storage_get(&direct_sk, sk, 0, 0);
  if (d) d->vip_port = 0;
}

static __always_inline int connect_decide(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                          const struct qanat_ip *src, const struct qanat_ip *dst,
                                          struct connect_change *change) {
  __u64 cookie = bpf_get_netns_cookie(ctx);
  struct qanat_pod *pod = bpf_map_lookup_elem(&pods, &cookie);
  __u32 protocol = QANAT_CTX(ctx, protocol);
  int tcp = protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP;
  if (!pod) return tcp ? connect_from_elsewhere(ctx, sk, cookie, src, dst) : 1;

  __u32 id = pod->id;
  struct qanat_pod_state *state = bpf_map_lookup_elem(&pod_state, &id);
  if (!state) return refuse(0, QANAT_CNT_REFUSED_CUT, ECONNREFUSED);
  __u32 mode = QANAT_FIELD(state->mode);
  if (!tcp) {
    if (mode != QANAT_MODE_OFF && protocol == IPPROTO_UDP) count(id, QANAT_CNT_UDP);
    return 1;
  }
  forget_vip(sk);

  struct qanat_probe *probe = 0;
  __u16 port = bpf_ntohs((__u16)QANAT_CTX(ctx, user_port));
  if (port == QANAT_PORT_PROBE) {
    struct qanat_tuple tuple = {*src, *dst, (__u16)QANAT_CTX(sk, src_port), port};
    probe = bpf_map_lookup_elem(&probes, &tuple);
    if (probe) {
      __sync_fetch_and_or(&probe->seen, QANAT_SEEN_CONNECT);
      __u32 role = QANAT_FIELD(probe->role);
      if (role == QANAT_PROBE_GUARD || role == QANAT_PROBE_PATH || role == QANAT_PROBE_SPOOF)
        return 1;
    }
  }
  if (mode == QANAT_MODE_OFF && !probe) return connect_early(sk);

  if (!probe) {
    if (cgroup_kind() == CGROUP_PEER) return connect_from_proxy(ctx, sk, pod, src, dst);
    if (ip_is_any(dst) || ip_is_loopback(dst) || ip_is_pods(pod, dst)) {
      count(id, QANAT_CNT_LOCAL);
      return 1;
    }
    if (mode == QANAT_MODE_DRAIN) return connect_early(sk);
    forget_early(ctx, sk);
    if (mode == QANAT_MODE_CUT) return refuse(id, QANAT_CNT_REFUSED_CUT, ECONNREFUSED);
    if ((QANAT_FIELD(state->flags) & QANAT_DIRECT_FROM) &&
        choose_direct(ctx, sk, cookie, pod, src, dst, change))
      return 1;
  }
  const struct qanat_ip *own = ip_is_v4(dst) ? &pod->ip4 : &pod->ip6;
  /* Table 101 needs a source of the family: without one the kernel would take the destination. */
  if (ip_is_any(own)) return refuse(id, QANAT_CNT_REFUSED_FAMILY, ENETUNREACH);
  /* A link-local destination is bound to its device by its scope, past the rule. */
  if (ip_is_v6_link_local(dst)) return refuse(id, QANAT_CNT_REFUSED_LINK_LOCAL, ECONNREFUSED);
  if (QANAT_CTX(sk, bound_dev_if)) {
    char none[4] = {};
    /* Needs CAP_NET_RAW in the calling task, as undoing it by hand would. */
    if (bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTODEVICE, none, sizeof(none)))
      return refuse(id, QANAT_CNT_REFUSED_DEVICE, ECONNREFUSED);
    count(id, QANAT_CNT_UNBOUND_DEVICE);
  }
  /* Always written, whatever the application had set. */
  if (set_mark(ctx, change->mark)) return refuse(id, QANAT_CNT_REFUSED_MARK, ECONNREFUSED);
  if (probe)
    __sync_fetch_and_or(&probe->seen, QANAT_SEEN_MARKED);
  else
    count(id, QANAT_CNT_CAPTURED);
  return 1;
}

#endif /* QANAT_BPF_CONNECT_H */
