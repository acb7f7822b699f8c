/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * What is read of the kernel's own TCP structures. Where each field lies is looked up when the
 * program is loaded (BTF, which sk_storage needs as well: every kernel that we take has it).
 */
#ifndef QANAT_BPF_TCP_H
#define QANAT_BPF_TCP_H

#include "bpf/include/kernel.h"

#include <bpf/bpf_core_read.h>

#define QANAT_SOCK_DONE (1ul << 1) /* skc_flags: the peer's FIN has come */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct sock_common {
  unsigned long skc_flags;
};
struct sock {
  struct sock_common __sk_common;
  int sk_err;
};
struct inet_connection_sock {
  struct {
    __u32 lrcvtime;
  } icsk_ack;
};
struct minmax_sample {
  __u32 v;
};
struct minmax {
  struct minmax_sample s[3];
};
struct tcp_sock {
  __u32 srtt_us; /* eight times it */
  struct minmax rtt_min;
  __u32 total_retrans, data_segs_out, data_segs_in, mss_cache;
  __u32 rate_delivered, rate_interval_us;
  __u64 bytes_sent, bytes_retrans, bytes_received;
  __u32 lsndtime;
  __u32 chrono_stat[3]; /* busy, of it: the peer's window full, the send buffer full */
  __u32 reord_seen, rcv_ooopack;
};
#pragma clang attribute pop

#endif /* QANAT_BPF_TCP_H */
