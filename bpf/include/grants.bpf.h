/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Putting grants into the map and taking them out, each under its source's budget.
 */
#ifndef QANAT_BPF_GRANTS_H
#define QANAT_BPF_GRANTS_H

#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"

static __always_inline void give_back(const struct qanat_grant *grant) {
  __u64 source = grant->source;
  struct qanat_budget *b = bpf_map_lookup_elem(&budgets, &source);
  if (b) __sync_fetch_and_add(&b->in_flight, -1);
}

/* The entry goes; the budget is credited by the one who really removed it. */
static __always_inline void remove_grant(const struct qanat_tuple *tuple, __u64 only_socket) {
  struct qanat_grant *found = bpf_map_lookup_elem(&grants, tuple);
  if (!found) return;
  struct qanat_grant grant = *found;
  if (only_socket && grant.socket != only_socket) return;
  if (bpf_map_delete_elem(&grants, tuple) == 0) give_back(&grant);
}

/* 0 when the source may have one more grant in flight. */
static __always_inline int take_budget(__u64 source) {
  struct qanat_budget *b = bpf_map_lookup_elem(&budgets, &source);
  if (!b) {
    struct qanat_budget fresh = {};
    bpf_map_update_elem(&budgets, &source, &fresh, BPF_NOEXIST);
    b = bpf_map_lookup_elem(&budgets, &source);
    if (!b) return -1;
  }
  __u32 limit = b->limit ? b->limit : QANAT_BUDGET_DEFAULT;
  /* Signed: the agent's correction may race with a removal, and -1 in flight must not read as four
   * billion. */
  if ((__s32)QANAT_FIELD(b->in_flight) >= (__s32)limit) return -1;
  __sync_fetch_and_add(&b->in_flight, 1);
  return 0;
}

/* 0: published. Else it is counted why not. */
static __always_inline int put_grant(const struct qanat_tuple *tuple,
                                     const struct qanat_grant *grant) {
  if (take_budget(grant->source)) {
    count(grant->pod_id, QANAT_CNT_GRANT_OVER_BUDGET);
    return -1;
  }
  /* A tuple is one socket's: a leftover of it is void, and must not be credited twice. */
  remove_grant(tuple, 0);
  if (bpf_map_update_elem(&grants, tuple, grant, BPF_ANY)) {
    give_back(grant);
    count(grant->pod_id, QANAT_CNT_GRANT_FULL);
    return -1;
  }
  return 0;
}

#endif /* QANAT_BPF_GRANTS_H */
