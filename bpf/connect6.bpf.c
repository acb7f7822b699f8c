// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// cgroup/connect6 at the root cgroup: IPv6 sockets, also when they connect to an IPv4-mapped
// address (connect4 does not see those).
#include "bpf/include/connect.bpf.h"
#include "bpf/include/dns.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup/connect6")
int qanat_connect6(struct bpf_sock_addr *ctx) {
  struct bpf_sock *sk = ctx->sk;
  asm volatile("" : "+r"(sk));
  if (!sk) return 1;
  struct qanat_ip dst = {{QANAT_CTX(ctx, user_ip6[0]), QANAT_CTX(ctx, user_ip6[1]),
                          QANAT_CTX(ctx, user_ip6[2]), QANAT_CTX(ctx, user_ip6[3])}};
  struct qanat_ip src = {{QANAT_CTX(sk, src_ip6[0]), QANAT_CTX(sk, src_ip6[1]),
                          QANAT_CTX(sk, src_ip6[2]), QANAT_CTX(sk, src_ip6[3])}};
  if (ip_is_v4(&dst) && ip_is_any(&src)) src = ip_v4(0);
  struct qanat_ip alias = {};
  if (dns_redirect(ctx, &dst, &src, &alias) && dns_remember(sk, &dst, &alias)) {
    dns_write6(ctx, &alias);
    ctx->user_port = bpf_htons(QANAT_PORT_DNS);
    return 1;
  }
  struct connect_change change = {.mark = QANAT_MARK_CAPTURE};
  if (!connect_decide(ctx, sk, &src, &dst, &change)) return 0;
  if (change.port) {
    dns_write6(ctx, &change.dst);
    ctx->user_port = bpf_htons((__u16)change.port);
  }
  return 1;
}
