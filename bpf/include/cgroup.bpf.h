/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * What the current task's cgroup is to us.
 */
#ifndef QANAT_BPF_CGROUP_H
#define QANAT_BPF_CGROUP_H

#include "bpf/include/maps.bpf.h"

enum { CGROUP_OTHER = 0, CGROUP_PEER = 1, CGROUP_POD = 2 };

/* CGROUP_PEER for the ZDS peer (also when it runs as a pod), CGROUP_POD below a root of the pods'
 * cgroups. Not inlined and not static: so the verifier checks these hundred comparisons once and not
 * for every path of every caller, which took it seconds. */
__weak __attribute__((noinline)) int cgroup_kind(void) {
  __u32 zero = 0;
  const struct qanat_config *cfg = bpf_map_lookup_elem(&config, &zero);
  if (!cfg) return CGROUP_OTHER;
  int kind = CGROUP_OTHER;
  for (int level = 1; level <= QANAT_CGROUP_DEPTH; level++) {
    __u64 id = bpf_get_current_ancestor_cgroup_id(level);
    if (!id) break;
    for (int i = 0; i < QANAT_MAX_PEERS; i++)
      if (cfg->peers[i].id == id) return CGROUP_PEER;
    for (int i = 0; i < QANAT_MAX_POD_ROOTS; i++)
      if (cfg->pod_roots[i].id == id) kind = CGROUP_POD;
  }
  return kind;
}

#endif /* QANAT_BPF_CGROUP_H */
