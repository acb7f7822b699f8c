/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * Records of closed connections. Nothing is done for each packet or acknowledgement: the kernel
 * keeps the figures anyway, and they are read once. Neither is a state followed on its way: which
 * one a socket closes from says who closed first.
 */
#ifndef QANAT_BPF_RECORD_H
#define QANAT_BPF_RECORD_H

#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"
#include "bpf/include/tcp.bpf.h"

/* 0: off. Written by the agent before loading. */
const volatile __u32 record_connections __weak = 1;

/* A record is due of this socket, which has just begun. */
static __always_inline void record_begin(struct qanat_direct_sk *d, __u32 serial,
                                         enum qanat_path path, int accepted) {
  d->path = path;
  d->serial = serial;
  d->start_ns = bpf_ktime_get_ns();
  d->established_ns = accepted ? d->start_ns : 0;
}

/* In whose record the socket's role is told by its path; a direct connection has both. */
static __always_inline int record_of_server(const struct qanat_direct_sk *d) {
  return d->path > QANAT_PATH_DIRECT || d->state == QANAT_DIRECT_SERVER;
}

static __always_inline void record_details(struct qanat_record *r, struct tcp_sock *tp) {
  r->busy = r->rwnd_limited = r->sndbuf_limited = r->response = 0;
  r->reordered = r->out_of_order = 0;
  if (!bpf_core_field_exists(tp->chrono_stat) || !bpf_core_field_exists(tp->reord_seen) ||
      !bpf_core_field_exists(tp->rcv_ooopack))
    return;
  r->flags |= QANAT_RECORD_DETAILS;
  r->busy = tp->chrono_stat[0];
  r->rwnd_limited = tp->chrono_stat[1];
  r->sndbuf_limited = tp->chrono_stat[2];
  /* The first is the time that all three were counted to, not only the rest. */
  r->busy += r->rwnd_limited + r->sndbuf_limited;
  r->reordered = tp->reord_seen;
  r->out_of_order = tp->rcv_ooopack;
  __s32 response = (__s32)(tp->lsndtime - ((struct inet_connection_sock *)tp)->icsk_ack.lrcvtime);
  if (r->bytes_sent && r->bytes_received && response > 0) r->response = (__u32)response;
}

/* `tuple` as the socket itself sees it: local first. Not inlined and not static, so that the
 * verifier checks it once (see cgroup_kind). */
__weak __attribute__((noinline)) int record_close(struct bpf_sock_ops *ctx,
                                                  const struct qanat_tuple *tuple) {
  struct bpf_sock *sk = ctx->sk;
  if (!sk || !tuple) return 0;
  struct qanat_direct_sk *d = bpf_sk_storage_get(&direct_sk, sk, 0, 0);
  struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
  if (!d || !tp) return 0;
  int server = record_of_server(d);
  __u32 path = d->path;
  d->path = QANAT_PATH_NONE; /* a socket may connect again */
  struct qanat_record *r = bpf_ringbuf_reserve(&records, sizeof(*r), 0);
  if (!r) {
    count(0, QANAT_CNT_RECORDS_LOST);
    return 0;
  }
  r->tuple = *tuple;
  if (server) {
    r->tuple.src = tuple->dst;
    r->tuple.dst = tuple->src;
    r->tuple.sport = tuple->dport;
    r->tuple.dport = tuple->sport;
  }
  r->serial = d->serial;
  r->peer_serial = r->policy = 0;
  if (path == QANAT_PATH_DIRECT) {
    r->peer_serial = server ? d->src_serial : d->dst_serial;
    r->policy = d->policy;
  }
  r->start_ns = d->start_ns;
  r->end_ns = bpf_ktime_get_ns();
  r->connect_us = 0;
  r->flags = server ? QANAT_RECORD_SERVER : 0;
  if (d->established_ns) {
    r->flags |= QANAT_RECORD_ESTABLISHED;
    r->connect_us = (__u32)((d->established_ns - d->start_ns) / 1000);
  }
  r->bytes_sent = tp->bytes_sent - tp->bytes_retrans;
  r->bytes_received = tp->bytes_received;
  /* The kernel counts the FIN as a byte. */
  struct sock *kernel = (struct sock *)tp;
  if (r->bytes_received && (kernel->__sk_common.skc_flags & QANAT_SOCK_DONE)) r->bytes_received--;
  r->srtt_us = tp->srtt_us >> 3;
  r->min_rtt_us = tp->rtt_min.s[0].v;
  r->retransmits = tp->total_retrans;
  r->segments_out = tp->data_segs_out;
  r->segments_in = tp->data_segs_in;
  r->rate_delivered = tp->rate_delivered;
  r->rate_interval_us = tp->rate_interval_us;
  r->mss = tp->mss_cache;
  r->error = (__u16)kernel->sk_err;
  r->path = (__u8)path;
  r->last_state = (__u8)QANAT_CTX(ctx, args[0]);
  r->reserved[0] = r->reserved[1] = r->reserved[2] = 0;
  record_details(r, tp);
  bpf_ringbuf_submit(r, BPF_RB_NO_WAKEUP); /* the agent looks by itself */
  return 0;
}

#endif /* QANAT_BPF_RECORD_H */
