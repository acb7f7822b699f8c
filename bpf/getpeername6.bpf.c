// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// cgroup/getpeername6 at the root cgroup: a socket connected to the DNS proxy sees its server,
// one that a service's endpoint was drawn for sees the service.
#include "bpf/include/dns.bpf.h"
#include "bpf/include/vip.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup/getpeername6")
int qanat_getpeername6(struct bpf_sock_addr *ctx) {
  if ((__u16)QANAT_CTX(ctx, user_port) != bpf_htons(QANAT_PORT_DNS)) {
    const struct qanat_direct_sk *d = vip_of_socket(ctx);
    if (!d) return 1;
    struct qanat_ip vip = d->vip;
    dns_write6(ctx, &vip);
    ctx->user_port = bpf_htons((__u16)d->vip_port);
    return 1;
  }
  struct qanat_ip from = {{QANAT_CTX(ctx, user_ip6[0]), QANAT_CTX(ctx, user_ip6[1]),
                           QANAT_CTX(ctx, user_ip6[2]), QANAT_CTX(ctx, user_ip6[3])}};
  if (!dns_restore(ctx, &from)) return 1;
  dns_write6(ctx, &from);
  ctx->user_port = bpf_htons(53);
  return 1;
}
