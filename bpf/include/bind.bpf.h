/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * The decision of cgroup/bind4 and bind6. A stock proxy binds (client address, port 0) for its leg
 * to the application; the kernel may then pick the very port that the client uses towards the same
 * destination, the two connections get one tuple and hang. Ports below the ephemeral range are
 * never a client's own choice.
 */
#ifndef QANAT_BPF_BIND_H
#define QANAT_BPF_BIND_H

#include "bpf/include/cgroup.bpf.h"
#include "bpf/include/kernel.h"
#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"

static __always_inline int bind_decide(struct bpf_sock_addr *ctx, const struct qanat_ip *address) {
  if (QANAT_CTX(ctx, user_port) || QANAT_CTX(ctx, type) != SOCK_STREAM) return 1;
  if (ip_is_any(address) || ip_is_loopback(address)) return 1;
  __u64 cookie = bpf_get_netns_cookie(ctx);
  struct qanat_pod *pod = bpf_map_lookup_elem(&pods, &cookie);
  if (!pod || ip_is_pods(pod, address)) return 1;
  __u32 id = pod->id;
  struct qanat_pod_state *state = bpf_map_lookup_elem(&pod_state, &id);
  if (!state) return 1;
  struct qanat_probe *probe = 0;
  if (state->mode == QANAT_MODE_OFF || cgroup_kind() != CGROUP_PEER) {
    struct qanat_tuple tuple = {*address, {{0, 0, 0, id}}, 0, QANAT_PORT_PROBE};
    probe = bpf_map_lookup_elem(&probes, &tuple);
    if (!probe) return 1;
  }
  __u32 low = pod->spoof_low, high = pod->spoof_high;
  if (low == 0 || high < low) return 1;
  __u32 one = 1;
  bpf_setsockopt(ctx, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  ctx->user_port = bpf_htons(low + bpf_get_prandom_u32() % (high - low + 1));
  if (probe)
    __sync_fetch_and_or(&probe->seen, QANAT_SEEN_BIND);
  else
    count(id, QANAT_CNT_PROXY_BIND);
  return 1;
}

#endif /* QANAT_BPF_BIND_H */
