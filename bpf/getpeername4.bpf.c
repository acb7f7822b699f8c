// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// cgroup/getpeername4 at the root cgroup: a socket connected to the DNS proxy sees its server,
// one that a service's endpoint was drawn for sees the service.
#include "bpf/include/dns.bpf.h"
#include "bpf/include/vip.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup/getpeername4")
int qanat_getpeername4(struct bpf_sock_addr *ctx) {
  if ((__u16)QANAT_CTX(ctx, user_port) != bpf_htons(QANAT_PORT_DNS)) {
    const struct qanat_direct_sk *d = vip_of_socket(ctx);
    if (!d) return 1;
    ctx->user_ip4 = d->vip.word[3];
    ctx->user_port = bpf_htons((__u16)d->vip_port);
    return 1;
  }
  struct qanat_ip from = ip_v4(QANAT_CTX(ctx, user_ip4));
  if (!dns_restore(ctx, &from)) return 1;
  ctx->user_ip4 = from.word[3];
  ctx->user_port = bpf_htons(53);
  return 1;
}
