// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// cgroup/bind6 at the root cgroup: the same for IPv6 sockets, mapped addresses included.
#include "bpf/include/bind.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup/bind6")
int qanat_bind6(struct bpf_sock_addr *ctx) {
  struct qanat_ip address = {{QANAT_CTX(ctx, user_ip6[0]), QANAT_CTX(ctx, user_ip6[1]),
                              QANAT_CTX(ctx, user_ip6[2]), QANAT_CTX(ctx, user_ip6[3])}};
  return bind_decide(ctx, &address);
}
