/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * A pod's DNS goes to the proxy's listener inside the pod. UDP: each server that is asked has an
 * alias, a loopback address (or one of a local IPv6 prefix) with the server's slot in it, so that a
 * socket that asks several keeps their answers apart. A slot that is given to another server has
 * another generation, thus another alias: an answer that comes late is never taken for the new
 * server's. Connected sockets remember their server themselves. TCP: to the plain loopback address.
 */
#ifndef QANAT_BPF_DNS_H
#define QANAT_BPF_DNS_H

#include "bpf/include/cgroup.bpf.h"
#include "bpf/include/kernel.h"
#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"

QANAT_MAP(dns_tables, BPF_MAP_TYPE_HASH, QANAT_MAX_PODS, __u32, struct qanat_dns_table,
          BPF_F_NO_PREALLOC);
QANAT_MAP(dns_on, BPF_MAP_TYPE_ARRAY, QANAT_MAX_PODS, __u32, __u32, 0);

/* What a connected socket has asked for, and where it went instead. */
struct qanat_dns_peer {
  struct qanat_ip server;
  struct qanat_ip alias;
};
struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct qanat_dns_peer);
} dns_peers SEC(".maps") __weak;

/* One branch for the caller, whatever clang thinks of it: paths are what a verifier counts. */
static __always_inline __u32 dns_differ(const struct qanat_ip *a, const struct qanat_ip *b) {
  __u32 bits = (a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2]) |
               (a->word[3] ^ b->word[3]);
  asm volatile("" : "+r"(bits));
  return bits;
}

static __always_inline __u32 dns_is_v6(const struct qanat_ip *ip) {
  __u32 bits = ip->word[0] | ip->word[1] | (ip->word[2] ^ QANAT_MAPPED);
  asm volatile("" : "+r"(bits));
  return bits;
}

static __always_inline __u32 dns_is_on(__u32 pod_id) {
  __u32 *on = bpf_map_lookup_elem(&dns_on, &pod_id);
  return on ? QANAT_FIELD(*on) : 0;
}

/* The code of this server's alias, or -1: every slot is in use by others. The best slot is the one
 * with the lowest rank: the server's own (no time in it), else one never used, else the one unused
 * for longest. Without branches: else the verifier walks every way to every slot; and not inlined,
 * so that it walks this once and not for every path of a caller. */
__weak __attribute__((noinline)) int dns_slot(__u32 pod_id, const struct qanat_ip *server,
                                              __u64 now) {
  struct qanat_dns_table *table = bpf_map_lookup_elem(&dns_tables, &pod_id);
  if (!table || !server) return -1;
  struct qanat_ip ip = *server;
  const __s64 kOther = 1ll << 61;
  __s64 best = 1ll << 62;
  int code = -1;
  bpf_spin_lock(&table->lock);
  for (int i = 0; i < QANAT_DNS_SERVERS; i++) {
    struct qanat_dns_server *s = &table->servers[i];
    __u64 differs = -(__u64)dns_differ(&s->ip, &ip);
    asm volatile("" : "+r"(differs));
    differs >>= 63; /* 1 or 0 */
    __s64 less = (__s64)((kOther | (s->used_ns & ~63ull)) * differs | i) - best;
    __s64 mask = less >> 63;
    asm volatile("" : "+r"(mask));
    best += less & mask;
  }
  struct qanat_dns_server *s = &table->servers[best & (QANAT_DNS_SERVERS - 1)];
  int own = best < kOther;
  if (own || s->used_ns == 0 || s->used_ns + QANAT_DNS_IDLE_NS < now) {
    if (!own) {
      s->ip = ip;
      s->generation = (s->generation + 1) % QANAT_DNS_GENERATIONS;
    }
    s->used_ns = now;
    code = s->generation * QANAT_DNS_SERVERS + (best & (QANAT_DNS_SERVERS - 1));
  }
  bpf_spin_unlock(&table->lock);
  return code;
}

/* Where this question goes instead, in `alias`; 0: where it wants to go. For connect() and
 * sendmsg(), of UDP and TCP; not inlined, so that it is verified once. */
__weak __attribute__((noinline)) int dns_redirect(struct bpf_sock_addr *ctx,
                                                  const struct qanat_ip *server,
                                                  const struct qanat_ip *source,
                                                  struct qanat_ip *alias) {
  struct bpf_sock *sk = ctx->sk;
  asm volatile("" : "+r"(sk));
  if (!sk || !server || !source || !alias) return 0;
  if ((__u16)QANAT_CTX(ctx, user_port) != bpf_htons(53)) return 0;
  __u32 protocol = QANAT_CTX(ctx, protocol);
  if (protocol != IPPROTO_UDP && protocol != IPPROTO_TCP) return 0;
  __u64 cookie = bpf_get_netns_cookie(ctx);
  struct qanat_pod *pod = bpf_map_lookup_elem(&pods, &cookie);
  if (!pod) return 0;
  __u32 id = pod->id;
  struct qanat_ip dst = *server;
  int v4 = !dns_is_v6(&dst);
  if (!(dns_is_on(id) & (v4 ? QANAT_DNS_V4 : QANAT_DNS_V6))) return 0;
  if (!dns_differ(&dst, &pod->ip4) || !dns_differ(&dst, &pod->ip6)) return 0;
  __u32 first = bpf_ntohl(v4 ? dst.word[3] : dst.word[0]);
  if (v4 ? first >> 24 == 127 || first == 0 : first == 0) return 0; /* loopback, any */
  struct qanat_pod_state *state = bpf_map_lookup_elem(&pod_state, &id);
  struct qanat_dns_table *table = bpf_map_lookup_elem(&dns_tables, &id);
  if (!state || !table) return 0;
  __u32 mode = QANAT_FIELD(state->mode);

  struct qanat_tuple tuple = {*source, dst, (__u16)QANAT_CTX(sk, src_port), 53};
  struct qanat_probe *probe = bpf_map_lookup_elem(&probes, &tuple);
  if (probe)
    __sync_fetch_and_or(&probe->seen, QANAT_SEEN_CONNECT);
  else if (cgroup_kind() == CGROUP_PEER) /* its own questions, to the servers themselves */
    return 0;
  /* Bound to a device, by the socket or by the scope of the address: lo is out of its reach. */
  int device = QANAT_CTX(sk, bound_dev_if) != 0 || (!v4 && first >> 22 == 0xfe80u >> 6);
  if (protocol == IPPROTO_TCP) { /* what is not redirected is captured as any connection */
    if (mode != QANAT_MODE_ENFORCED || device) return 0;
    count(id, QANAT_CNT_DNS_TCP);
    *alias = v4 ? ip_v4(bpf_htonl(0x7f000001)) : (struct qanat_ip){{0, 0, 0, bpf_htonl(1)}};
    return 1;
  }
  __u64 now = bpf_ktime_get_ns();
  int code = -1;
  if (!device && (probe || mode != QANAT_MODE_OFF)) code = dns_slot(id, &dst, now);
  if (code < 0) {
    /* Its answer comes from outside, then: see dns_from_wire(). */
    table->wire_until_ns = now + QANAT_DNS_ANSWER_NS;
    if (mode != QANAT_MODE_OFF) count(id, device ? QANAT_CNT_DNS_DEVICE : QANAT_CNT_DNS_FULL);
    return 0;
  }
  if (!probe) count(id, QANAT_CNT_DNS);
  *alias = ip_v4(bpf_htonl(QANAT_DNS_ALIAS | (__u32)code));
  if (!v4) {
    alias->word[0] = table->prefix[0];
    alias->word[1] = table->prefix[1];
    alias->word[2] = table->prefix[2];
  }
  return 1;
}

/* After dns_redirect() in connect(): 0 when it must go on as if there were no redirection. */
static __always_inline int dns_remember(struct bpf_sock *sk, const struct qanat_ip *server,
                                        const struct qanat_ip *alias) {
  struct qanat_dns_peer *peer = bpf_sk_storage_get(&dns_peers, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!peer) return 0;
  peer->server = *server;
  peer->alias = *alias;
  return 1;
}

/* For hooks of IPv6 sockets only: others may not name user_ip6. */
static __always_inline void dns_write6(struct bpf_sock_addr *ctx, const struct qanat_ip *ip) {
  ctx->user_ip6[0] = ip->word[0];
  ctx->user_ip6[1] = ip->word[1];
  ctx->user_ip6[2] = ip->word[2];
  ctx->user_ip6[3] = ip->word[3];
}

/* For recvmsg() and getpeername(): `from` becomes the server that was asked; 0 when it is none of
 * our aliases. Not inlined, as above. */
__weak __attribute__((noinline)) int dns_restore(struct bpf_sock_addr *ctx, struct qanat_ip *from) {
  struct bpf_sock *sk = ctx->sk;
  asm volatile("" : "+r"(sk));
  if (!sk || !from) return 0;
  if ((__u16)QANAT_CTX(ctx, user_port) != bpf_htons(QANAT_PORT_DNS)) return 0;
  struct qanat_ip ip = *from;
  struct qanat_dns_peer *peer = bpf_sk_storage_get(&dns_peers, sk, 0, 0);
  if (peer && !dns_differ(&peer->alias, &ip)) {
    *from = peer->server;
    return 1;
  }
  if ((ip.word[3] & bpf_htonl(0xffff0000)) != bpf_htonl(QANAT_DNS_ALIAS)) return 0;
  __u64 cookie = bpf_get_netns_cookie(ctx);
  struct qanat_pod *pod = bpf_map_lookup_elem(&pods, &cookie);
  if (!pod) return 0;
  __u32 id = pod->id;
  struct qanat_dns_table *table = bpf_map_lookup_elem(&dns_tables, &id);
  if (!table) return 0;
  int v4 = ip_is_v4(&ip);
  if (!v4 && ((ip.word[0] ^ table->prefix[0]) | (ip.word[1] ^ table->prefix[1]) |
              (ip.word[2] ^ table->prefix[2])))
    return 0;
  __u32 code = bpf_ntohl(ip.word[3]) & 0xffff;
  struct qanat_dns_server *s = &table->servers[code % QANAT_DNS_SERVERS];
  struct qanat_dns_server known;
  bpf_spin_lock(&table->lock);
  known = *s;
  bpf_spin_unlock(&table->lock);
  if (known.used_ns == 0 || known.generation != code / QANAT_DNS_SERVERS) return 0;
  if (ip_is_v4(&known.ip) != v4) return 0;
  *from = known.ip;
  return 1;
}

/* The pod's sk_lookup, for UDP that did not come over lo: the proxy's listener is for the pod
 * itself, and a server whose questions all go to the proxy cannot answer from outside. A connected
 * socket is not looked up here, but it takes answers from its alias only. */
__weak __attribute__((noinline)) int dns_from_wire(__u32 id, const struct qanat_ip *remote,
                                                   __u32 sport, __u32 dport) {
  if (!remote) return SK_PASS;
  struct qanat_ip from = *remote;
  if (!dns_is_on(id)) return SK_PASS;
  if (dport == QANAT_PORT_DNS) {
    count(id, QANAT_CNT_DNS_DROPPED);
    return SK_DROP;
  }
  if (sport != 53) return SK_PASS;
  struct qanat_dns_table *table = bpf_map_lookup_elem(&dns_tables, &id);
  if (!table || bpf_ktime_get_ns() < QANAT_FIELD(table->wire_until_ns)) return SK_PASS;
  for (int i = 0; i < QANAT_DNS_SERVERS; i++)
    if (!dns_differ(&table->servers[i].ip, &from)) {
      count(id, QANAT_CNT_DNS_DROPPED);
      return SK_DROP;
    }
  return SK_PASS;
}

#endif /* QANAT_BPF_DNS_H */
