// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// cgroup/sendmsg4 at the root cgroup: UDP of a socket that is not connected. A pod's question to a
// DNS server goes to the proxy.
#include "bpf/include/dns.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup/sendmsg4")
int qanat_sendmsg4(struct bpf_sock_addr *ctx) {
  struct bpf_sock *sk = ctx->sk;
  asm volatile("" : "+r"(sk));
  if (!sk || (__u16)QANAT_CTX(ctx, user_port) != bpf_htons(53)) return 1;
  struct qanat_ip src = ip_v4(QANAT_CTX(sk, src_ip4));
  struct qanat_ip dst = ip_v4(QANAT_CTX(ctx, user_ip4));
  struct qanat_ip alias = {};
  if (!dns_redirect(ctx, &dst, &src, &alias)) return 1;
  ctx->user_ip4 = alias.word[3];
  ctx->user_port = bpf_htons(QANAT_PORT_DNS);
  return 1;
}
