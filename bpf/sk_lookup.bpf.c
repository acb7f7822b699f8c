// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// sk_lookup in each enrolled pod's network namespace: which listener gets a new connection. One
// instance per pod with the pod's identity in .rodata (the netns cookie cannot be read here).
#include "bpf/include/direct.bpf.h"
#include "bpf/include/grants.bpf.h"
#include "bpf/include/dns.bpf.h"
#include "bpf/include/kernel.h"
#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 lookup_pod_id = 0;
const volatile struct qanat_ip lookup_ip4 = {};
const volatile struct qanat_ip lookup_ip6 = {};
/* The pod asks for what comes in from the wire to be left alone (an ingress gateway). */
const volatile __u32 lookup_plain_inbound = 0;

static __always_inline int is_own(const struct qanat_ip *ip) {
  struct qanat_ip v4 = {{lookup_ip4.word[0], lookup_ip4.word[1], lookup_ip4.word[2],
                         lookup_ip4.word[3]}};
  struct qanat_ip v6 = {{lookup_ip6.word[0], lookup_ip6.word[1], lookup_ip6.word[2],
                         lookup_ip6.word[3]}};
  return ip_equal(ip, &v4) || ip_equal(ip, &v6) || ip_is_loopback(ip) ||
         is_other_own(lookup_pod_id, ip);
}

/* The same tuple always starts at the same worker: with SYN cookies the ACK must meet the listener
 * that sent the cookie. */
static __always_inline __u32 tuple_hash(const struct qanat_tuple *t) {
  __u32 h = ((__u32)t->sport << 16 | t->dport) * 0x9e3779b1u;
  h ^= t->src.word[3] * 0x85ebca6bu + t->src.word[2];
  h ^= t->dst.word[3] * 0xc2b2ae35u + t->dst.word[2];
  h ^= h >> 15;
  h *= 0x2c1b3c6du;
  return h ^ (h >> 13);
}

static __always_inline int give(struct bpf_sk_lookup *ctx, const struct qanat_pod_state *state,
                                __u32 role, const struct qanat_tuple *tuple,
                                struct qanat_probe *probe) {
  __u32 id = lookup_pod_id;
  __u32 workers = role < QANAT_ROLES ? state->workers[role] : 0;
  if (workers > QANAT_MAX_WORKERS) workers = QANAT_MAX_WORKERS;
  __u32 first = tuple_hash(tuple) & 0xffff;
  __u32 slot = 0;
  struct bpf_sock *sk = 0;
  for (__u32 i = 0; i < QANAT_MAX_WORKERS; i++) {
    if (i >= workers) break;
    slot = qanat_slot(id, role, (first + i) % workers);
    sk = bpf_map_lookup_elem(&listeners, &slot);
    if (sk) break; /* the kernel empties a slot when its socket closes */
  }
  long failed = -1;
  if (sk) {
    failed = bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_NO_REUSEPORT);
    bpf_sk_release(sk);
  }
  if (probe) { /* the listener must not see it */
    probe->role = role;
    probe->slot = slot;
    probe->pod_id = id;
    __sync_fetch_and_or(&probe->seen, QANAT_SEEN_LOOKUP | (failed ? 0 : QANAT_SEEN_ASSIGN));
    return SK_DROP;
  }
  if (failed) {
    count(id, sk ? QANAT_CNT_DROP_ASSIGN : QANAT_CNT_DROP_NO_LISTENER);
    return SK_DROP;
  }
  count(id, QANAT_CNT_TO_OUTBOUND + role);
  return SK_PASS;
}

/* A direct grant is an application's: it lives no longer than the verdict behind it. */
static __always_inline int still_direct(const struct qanat_grant *g,
                                        const struct qanat_pod_state *state) {
  const struct qanat_direct *lease = direct_lease();
  return lease && (QANAT_FIELD(state->flags) & QANAT_DIRECT_TO) &&
         g->verdict >= QANAT_FIELD(lease->generation) && g->verdict >= QANAT_FIELD(state->floor);
}

/* While the programs are replaced by those of another layout, the old sockops goes on publishing
 * grants where it always did. The agent puts that map here and says where its fields are. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1);
  __type(key, struct qanat_tuple);
  __type(value, struct qanat_grant);
} grants_before SEC(".maps");
const volatile struct qanat_before lookup_before = {};

static __always_inline int granted_before(const struct qanat_tuple *tuple,
                                          const struct qanat_pod_state *state) {
  if (!lookup_before.on) return 0;
  const char *g = bpf_map_lookup_elem(&grants_before, tuple);
  if (!g) return 0;
  /* Direct ones are void: the agent that gave the verdicts has ended. */
  if (lookup_before.has_kind && *(const __u32 *)(g + lookup_before.kind) == QANAT_GRANT_DIRECT)
    return 0;
  return *(const __u32 *)(g + lookup_before.pod_id) == lookup_pod_id &&
         *(const __u32 *)(g + lookup_before.generation) == QANAT_FIELD(state->generation) &&
         bpf_ktime_get_ns() - *(const __u64 *)(g + lookup_before.time_ns) <=
             QANAT_GRANT_LIFETIME_NS;
}

/* Not inlined and not static, so that the verifier checks it once and not for every listener. */
__weak __attribute__((noinline)) int granted(const struct qanat_tuple *wanted,
                                             const struct qanat_pod_state *state) {
  if (!wanted || !state) return 0;
  struct qanat_tuple tuple = *wanted;
  struct qanat_grant *g = bpf_map_lookup_elem(&grants, &tuple);
  if (!g) return granted_before(&tuple, state);
  int direct = g->kind == QANAT_GRANT_DIRECT;
  if (g->pod_id == lookup_pod_id && g->generation == QANAT_FIELD(state->generation) &&
      bpf_ktime_get_ns() - g->time_ns <= QANAT_GRANT_LIFETIME_NS &&
      (!direct || still_direct(g, state)))
    return 1;
  /* For good: else the proxy's accepting it would pass for the application's. */
  if (direct) remove_grant(&tuple, 0);
  count(lookup_pod_id, QANAT_CNT_GRANT_STALE);
  return 0;
}

SEC("sk_lookup")
int qanat_sk_lookup(struct bpf_sk_lookup *ctx) {
  __u32 protocol = QANAT_CTX(ctx, protocol);
  int from_lo = QANAT_CTX(ctx, ingress_ifindex) == LOOPBACK_IFINDEX;
  if (protocol != IPPROTO_TCP && (protocol != IPPROTO_UDP || from_lo)) return SK_PASS;
  __u32 id = lookup_pod_id;
  struct qanat_pod_state *state = bpf_map_lookup_elem(&pod_state, &id);
  if (!state) return protocol == IPPROTO_TCP ? SK_DROP : SK_PASS;
  __u32 mode = QANAT_FIELD(state->mode);

  if (!QANAT_CTX(ctx, remote_port) && protocol == IPPROTO_TCP &&
      (mode == QANAT_MODE_ENFORCED || mode == QANAT_MODE_CUT)) {
    __u32 zero = 0; /* the question of ingress.bpf.c; a connection from port 0 there is not */
    __u32 *answer = bpf_map_lookup_elem(&answers, &zero);
    if (answer) *answer = id;
    return SK_DROP;
  }

  struct qanat_tuple tuple;
  if (QANAT_CTX(ctx, family) == AF_INET) {
    tuple.src = ip_v4(QANAT_CTX(ctx, remote_ip4));
    tuple.dst = ip_v4(QANAT_CTX(ctx, local_ip4));
  } else {
    tuple.src.word[0] = QANAT_CTX(ctx, remote_ip6[0]);
    tuple.src.word[1] = QANAT_CTX(ctx, remote_ip6[1]);
    tuple.src.word[2] = QANAT_CTX(ctx, remote_ip6[2]);
    tuple.src.word[3] = QANAT_CTX(ctx, remote_ip6[3]);
    tuple.dst.word[0] = QANAT_CTX(ctx, local_ip6[0]);
    tuple.dst.word[1] = QANAT_CTX(ctx, local_ip6[1]);
    tuple.dst.word[2] = QANAT_CTX(ctx, local_ip6[2]);
    tuple.dst.word[3] = QANAT_CTX(ctx, local_ip6[3]);
  }
  tuple.sport = bpf_ntohs(QANAT_CTX(ctx, remote_port));
  tuple.dport = (__u16)QANAT_CTX(ctx, local_port);

  if (protocol == IPPROTO_UDP) {
    if (mode == QANAT_MODE_OFF) return SK_PASS;
    return dns_from_wire(id, &tuple.src, tuple.sport, tuple.dport) ? SK_PASS : SK_DROP;
  }

  struct qanat_probe *probe = 0;
  if (tuple.dport == QANAT_PORT_PROBE || tuple.dport == QANAT_PORT_HBONE)
    probe = bpf_map_lookup_elem(&probes, &tuple);
  if (mode == QANAT_MODE_OFF && !probe) return SK_PASS;

  /* The pod talking to itself. The ingress interface does not tell: over lo to an own address it is
   * reported as eth0. */
  int to_own = is_own(&tuple.dst);
  if ((to_own && is_own(&tuple.src)) || ip_equal(&tuple.src, &tuple.dst)) return SK_PASS;

  __u32 role = QANAT_ROLE_INBOUND;
  if (from_lo) {
    if (to_own) return SK_PASS; /* the proxy's leg to the application */
    role = QANAT_ROLE_OUTBOUND;
  } else if (mode == QANAT_MODE_CUT && !probe) {
    count(id, QANAT_CNT_REFUSED_CUT);
    return SK_DROP;
  } else if (tuple.dport == QANAT_PORT_HBONE) {
    role = QANAT_ROLE_HBONE;
  } else if (tuple.dport == QANAT_PORT_OUTBOUND || tuple.dport == QANAT_PORT_INBOUND ||
             (tuple.dport == QANAT_PORT_DNS && dns_is_on(id))) {
    count(id, QANAT_CNT_DROP_PROXY_PORT);
    return SK_DROP;
  } else if (mode == QANAT_MODE_DRAIN && !probe) {
    return SK_PASS;
  } else if (!probe && lookup_plain_inbound) {
    count(id, QANAT_CNT_PLAIN_INBOUND);
    return SK_PASS;
  } else if (!probe && granted(&tuple, state)) {
    count(id, QANAT_CNT_GRANT_USED);
    return SK_PASS;
  }
  return give(ctx, state, role, &tuple, probe);
}
