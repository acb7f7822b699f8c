// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// cgroup/recvmsg4 at the root cgroup: the answer of the proxy comes from the server that was asked.
#include "bpf/include/dns.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup/recvmsg4")
int qanat_recvmsg4(struct bpf_sock_addr *ctx) {
  if ((__u16)QANAT_CTX(ctx, user_port) != bpf_htons(QANAT_PORT_DNS)) return 1;
  struct qanat_ip from = ip_v4(QANAT_CTX(ctx, user_ip4));
  if (!dns_restore(ctx, &from)) return 1;
  ctx->user_ip4 = from.word[3];
  ctx->user_port = bpf_htons(53);
  return 1;
}
