/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Addresses as the hooks compare them, and how context fields are read.
 */
#ifndef QANAT_BPF_NET_H
#define QANAT_BPF_NET_H

#include "bpf/include/kernel.h"

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "bpf/include/abi.h"

/* One load of something that must be read exactly once. */
#define QANAT_FIELD(x) (*(volatile typeof(x) *)&(x))

/* One 32-bit load of a context field at a constant offset. In C, clang merges the loads of two
 * branches into one of ctx+register, which the verifier refuses. */
#define QANAT_CTX(ctx, field)                                                        \
  ({                                                                                 \
    __u64 qanat_value;                                                               \
    asm volatile("%0 = *(u32 *)(%1 + %2)"                                            \
                 : "=r"(qanat_value)                                                 \
                 : "r"(ctx), "i"(__builtin_offsetof(typeof(*(ctx)), field)));        \
    (__u32) qanat_value;                                                             \
  })

#define QANAT_MAPPED bpf_htonl(0x0000ffff)

static __always_inline struct qanat_ip ip_v4(__u32 address) {
  struct qanat_ip ip = {{0, 0, QANAT_MAPPED, address}};
  return ip;
}

static __always_inline int ip_is_v4(const struct qanat_ip *ip) {
  return (ip->word[0] | ip->word[1] | (ip->word[2] ^ QANAT_MAPPED)) == 0;
}

static __always_inline int ip_equal(const struct qanat_ip *a, const struct qanat_ip *b) {
  /* One branch instead of four: paths are what a verifier counts. */
  return ((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2]) |
          (a->word[3] ^ b->word[3])) == 0;
}

/* ::, 0.0.0.0 and the mapped form of the latter */
static __always_inline int ip_is_any(const struct qanat_ip *ip) {
  return (ip->word[0] | ip->word[1] | ip->word[3]) == 0 &&
         (ip->word[2] == 0 || ip->word[2] == QANAT_MAPPED);
}

static __always_inline int ip_is_loopback(const struct qanat_ip *ip) {
  if (ip_is_v4(ip)) return (ip->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
  return (ip->word[0] | ip->word[1] | ip->word[2] | (ip->word[3] ^ bpf_htonl(1))) == 0;
}

static __always_inline int ip_is_v6_link_local(const struct qanat_ip *ip) {
  return (ip->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* An unset pod address is all zero and equals no destination that gets this far. */
static __always_inline int ip_is_pods(const struct qanat_pod *pod, const struct qanat_ip *ip) {
  return ip_equal(ip, &pod->ip4) || ip_equal(ip, &pod->ip6);
}

#endif /* QANAT_BPF_NET_H */
