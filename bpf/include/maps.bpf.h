/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Every map. Each is pinned by the agent in its own directory, so that several agents (one per node
 * of a mesh on one machine) never share one. What they hold: bpf/include/abi.h.
 */
#ifndef QANAT_BPF_MAPS_H
#define QANAT_BPF_MAPS_H

#include "bpf/include/kernel.h"

#include <bpf/bpf_helpers.h>

#include "bpf/include/abi.h"

/* Weak: every hook's object has its own definition and the linker keeps one. */
#define QANAT_MAP(name, kind, entries, ktype, vtype, flags) \
  struct {                                                  \
    __uint(type, kind);                                     \
    __uint(max_entries, entries);                           \
    __uint(map_flags, flags);                               \
    __type(key, ktype);                                     \
    __type(value, vtype);                                   \
  } name SEC(".maps") __weak

QANAT_MAP(abi, BPF_MAP_TYPE_ARRAY, 1, __u32, struct qanat_abi, 0);
QANAT_MAP(config, BPF_MAP_TYPE_ARRAY, 1, __u32, struct qanat_config, 0);
QANAT_MAP(pods, BPF_MAP_TYPE_HASH, QANAT_MAX_PODS, __u64, struct qanat_pod, 0);
/* Address of an enrolled pod of this node -> its netns cookie: where a grant may lead. */
QANAT_MAP(pod_ips, BPF_MAP_TYPE_HASH, 2 * QANAT_MAX_PODS, struct qanat_ip, __u64, 0);
QANAT_MAP(own_ips, BPF_MAP_TYPE_HASH, QANAT_MAX_OWN_IPS, struct qanat_own_ip, __u8,
          BPF_F_NO_PREALLOC);
QANAT_MAP(pod_state, BPF_MAP_TYPE_ARRAY, QANAT_MAX_PODS, __u32, struct qanat_pod_state, 0);
QANAT_MAP(listeners, BPF_MAP_TYPE_SOCKMAP, QANAT_MAX_PODS *QANAT_ROLES *QANAT_MAX_WORKERS, __u32,
          __u64, 0);
QANAT_MAP(grants, BPF_MAP_TYPE_HASH, QANAT_MAX_GRANTS, struct qanat_tuple, struct qanat_grant, 0);
QANAT_MAP(budgets, BPF_MAP_TYPE_HASH, QANAT_MAX_PODS + 16, __u64, struct qanat_budget, 0);
/* Ten at once for each pod: after a proxy has come all of them are proven. */
QANAT_MAP(probes, BPF_MAP_TYPE_HASH, 10 * QANAT_MAX_PODS, struct qanat_tuple, struct qanat_probe,
          BPF_F_NO_PREALLOC);
QANAT_MAP(counters, BPF_MAP_TYPE_PERCPU_ARRAY, QANAT_MAX_PODS, __u32, struct qanat_counters, 0);

QANAT_MAP(direct, BPF_MAP_TYPE_ARRAY, 1, __u32, struct qanat_direct, 0);
QANAT_MAP(verdicts, BPF_MAP_TYPE_HASH, QANAT_MAX_VERDICTS, struct qanat_verdict_key,
          struct qanat_verdict, BPF_F_NO_PREALLOC);
QANAT_MAP(vips, BPF_MAP_TYPE_HASH, QANAT_MAX_VIPS, struct qanat_vip_key, struct qanat_vip,
          BPF_F_NO_PREALLOC);
QANAT_MAP(suspended, BPF_MAP_TYPE_LRU_HASH, QANAT_MAX_SUSPENDED, struct qanat_suspended_key,
          struct qanat_suspended, 0);
QANAT_MAP(asked, BPF_MAP_TYPE_ARRAY, QANAT_MAX_PODS, __u32, __u32, 0);
QANAT_MAP(flows, BPF_MAP_TYPE_HASH, QANAT_MAX_FLOWS, struct qanat_tuple, struct qanat_flow,
          BPF_F_NO_PREALLOC);

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, QANAT_MISSES_BYTES);
} misses SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, QANAT_RECORDS_BYTES);
} records SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct qanat_direct_sk);
} direct_sk SEC(".maps") __weak;

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct qanat_origin_record);
} origins SEC(".maps") __weak;

/* An address of the pod's namespace that is not one of those it is known by. */
static __always_inline int is_other_own(__u32 pod_id, const struct qanat_ip *ip) {
  struct qanat_own_ip key = {pod_id, *ip};
  return bpf_map_lookup_elem(&own_ips, &key) != 0;
}

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, __u64);
} early SEC(".maps") __weak;
QANAT_MAP(early_cookies, BPF_MAP_TYPE_HASH, QANAT_MAX_EARLY, __u64, __u64, BPF_F_NO_PREALLOC);

QANAT_MAP(host_ends, BPF_MAP_TYPE_HASH, QANAT_MAX_HOST_ENDS, __u32, struct qanat_host_end,
          BPF_F_NO_PREALLOC);
QANAT_MAP(source_ips, BPF_MAP_TYPE_HASH, QANAT_MAX_OWN_IPS, struct qanat_own_ip, __u8,
          BPF_F_NO_PREALLOC);
QANAT_MAP(answers, BPF_MAP_TYPE_PERCPU_ARRAY, 1, __u32, __u32, 0);

static __always_inline void count(__u32 pod_id, enum qanat_counter which) {
  struct qanat_counters *c = bpf_map_lookup_elem(&counters, &pod_id);
  if (c) c->value[which]++;
}

#endif /* QANAT_BPF_MAPS_H */
