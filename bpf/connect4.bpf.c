// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// cgroup/connect4 at the root cgroup: every IPv4 connect() of the machine; only sockets of pods in
// `pods` are changed.
#include "bpf/include/connect.bpf.h"
#include "bpf/include/dns.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup/connect4")
int qanat_connect4(struct bpf_sock_addr *ctx) {
  struct bpf_sock *sk = ctx->sk;
  asm volatile("" : "+r"(sk));
  if (!sk) return 1;
  struct qanat_ip src = ip_v4(QANAT_CTX(sk, src_ip4));
  struct qanat_ip dst = ip_v4(QANAT_CTX(ctx, user_ip4));
  struct qanat_ip alias = {};
  if (dns_redirect(ctx, &dst, &src, &alias) && dns_remember(sk, &dst, &alias)) {
    ctx->user_ip4 = alias.word[3];
    ctx->user_port = bpf_htons(QANAT_PORT_DNS);
    return 1;
  }
  struct connect_change change = {.mark = QANAT_MARK_CAPTURE};
  if (!connect_decide(ctx, sk, &src, &dst, &change)) return 0;
  if (change.port) {
    ctx->user_ip4 = change.dst.word[3];
    ctx->user_port = bpf_htons((__u16)change.port);
  }
  return 1;
}
