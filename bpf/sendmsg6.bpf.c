// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// cgroup/sendmsg6 at the root cgroup: UDP of a socket that is not connected. A pod's question to a
// DNS server goes to the proxy.
#include "bpf/include/dns.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup/sendmsg6")
int qanat_sendmsg6(struct bpf_sock_addr *ctx) {
  struct bpf_sock *sk = ctx->sk;
  asm volatile("" : "+r"(sk));
  if (!sk || (__u16)QANAT_CTX(ctx, user_port) != bpf_htons(53)) return 1;
  struct qanat_ip dst = {{QANAT_CTX(ctx, user_ip6[0]), QANAT_CTX(ctx, user_ip6[1]),
                          QANAT_CTX(ctx, user_ip6[2]), QANAT_CTX(ctx, user_ip6[3])}};
  struct qanat_ip src = {{QANAT_CTX(sk, src_ip6[0]), QANAT_CTX(sk, src_ip6[1]),
                          QANAT_CTX(sk, src_ip6[2]), QANAT_CTX(sk, src_ip6[3])}};
  if (ip_is_v4(&dst)) return 1; /* those are sendmsg4's */
  struct qanat_ip alias = {};
  if (!dns_redirect(ctx, &dst, &src, &alias)) return 1;
  dns_write6(ctx, &alias);
  ctx->user_port = bpf_htons(QANAT_PORT_DNS);
  return 1;
}
