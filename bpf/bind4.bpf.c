// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// cgroup/bind4 at the root cgroup: a port of its own for the proxy's spoofed IPv4 sources.
#include "bpf/include/bind.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup/bind4")
int qanat_bind4(struct bpf_sock_addr *ctx) {
  struct qanat_ip address = ip_v4(QANAT_CTX(ctx, user_ip4));
  return bind_decide(ctx, &address);
}
