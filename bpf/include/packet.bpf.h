/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * What the programs on devices read of a frame.
 */
#ifndef QANAT_BPF_PACKET_H
#define QANAT_BPF_PACKET_H

#include "bpf/include/maps.bpf.h"
#include "bpf/include/net.bpf.h"

enum { kFlagSyn = 0x02, kFlagAck = 0x10, kFlagsOffset = 13 };

/* Most of what goes over a device, at the price of a few loads: TCP behind a plain IP header that
 * is certainly no SYN. */
static __always_inline int is_later_segment(struct __sk_buff *skb) {
  const __u8 *d = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
  if (d + ETH_HLEN + 40 > end) return 0;
  __u16 type = *(const __u16 *)(d + ETH_HLEN - 2);
  if (type == bpf_htons(ETH_P_IP))
    return d[ETH_HLEN] == 0x45 && d[ETH_HLEN + 9] == IPPROTO_TCP &&
           !((d[ETH_HLEN + 6] & 0x3f) | d[ETH_HLEN + 7]) &&
           (d[ETH_HLEN + 20 + kFlagsOffset] & (kFlagSyn | kFlagAck)) != kFlagSyn;
  if (type != bpf_htons(ETH_P_IPV6) || d + ETH_HLEN + 60 > end) return 0;
  return d[ETH_HLEN + 6] == IPPROTO_TCP &&
         (d[ETH_HLEN + 40 + kFlagsOffset] & (kFlagSyn | kFlagAck)) != kFlagSyn;
}

/* Of the frame, not skb->protocol: a packet socket says there what it likes. 0: cannot be told. */
static __always_inline __u16 frame_type(struct __sk_buff *skb) {
  __u16 type = 0;
  bpf_skb_load_bytes(skb, ETH_HLEN - 2, &type, sizeof(type));
  return type;
}

/* A tag inside the frame: a receiver takes one with number 0 off and looks at what is behind. */
static __always_inline int is_tagged(__u16 type) {
  return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/* Offset of what follows the IP headers, and what that is. 0: not IP, or a later fragment; -1:
 * cannot be told. */
static __always_inline int walk_headers(struct __sk_buff *skb, __u8 *what) {
  __u16 protocol = frame_type(skb);
  if (!protocol || is_tagged(protocol)) return -1;
  if (protocol == bpf_htons(ETH_P_IP)) {
    __u8 h[20];
    if (bpf_skb_load_bytes(skb, ETH_HLEN, h, sizeof(h))) return -1;
    *what = h[9];
    if ((h[6] & 0x1f) || h[7]) return 0; /* not the first fragment */
    return ETH_HLEN + (h[0] & 0x0f) * 4;
  }
  if (protocol != bpf_htons(ETH_P_IPV6)) return 0;
  __u8 next = 0, h[8];
  if (bpf_skb_load_bytes(skb, ETH_HLEN + 6, &next, 1)) return -1;
  __u32 offset = ETH_HLEN + 40;
  for (int i = 0; i < 6; i++) {
    *what = next;
    if (next != 0 && next != 43 && next != 44 && next != 60) return offset; /* no extension */
    if (bpf_skb_load_bytes(skb, offset, h, sizeof(h))) return -1;
    if (next == 44) {
      if (h[2] || (h[3] & 0xf8)) return 0;
      offset += 8;
    } else {
      offset += (h[1] + 1) * 8;
    }
    next = h[0];
  }
  return -1;
}

/* The same as one number, what << 16 | offset. Not inlined and not static, so that the verifier
 * checks it once and not for every path of every caller. */
__weak __attribute__((noinline)) int transport_of(struct __sk_buff *skb) {
  __u8 what = 0;
  int offset = walk_headers(skb, &what);
  return offset > 0 ? (int)what << 16 | offset : offset;
}

/* Offset of the TCP header, 0: not TCP (or a later fragment), -1: cannot be told. */
static __always_inline int find_tcp(struct __sk_buff *skb) {
  int found = transport_of(skb);
  if (found <= 0) return found;
  return found >> 16 == IPPROTO_TCP ? found & 0xffff : 0;
}

/* What cannot be told counts as one. */
static __always_inline int is_syn(struct __sk_buff *skb, int offset) {
  __u8 flags = kFlagSyn;
  if (offset == 0) return 0;
  if (offset > 0 && bpf_skb_load_bytes(skb, offset + kFlagsOffset, &flags, 1)) return 1;
  return (flags & (kFlagSyn | kFlagAck)) == kFlagSyn;
}

/* Of the TCP header at `offset`; not 0: cannot be told. */
static __always_inline int read_tuple(struct __sk_buff *skb, int offset,
                                      struct qanat_tuple *tuple) {
  __be16 ports[2];
  if (offset <= 0 || bpf_skb_load_bytes(skb, offset, ports, sizeof(ports))) return -1;
  tuple->sport = bpf_ntohs(ports[0]);
  tuple->dport = bpf_ntohs(ports[1]);
  if (frame_type(skb) == bpf_htons(ETH_P_IP)) {
    __be32 v4[2];
    if (bpf_skb_load_bytes(skb, ETH_HLEN + 12, v4, sizeof(v4))) return -1;
    tuple->src = ip_v4(v4[0]);
    tuple->dst = ip_v4(v4[1]);
    return 0;
  }
  struct qanat_ip v6[2];
  if (bpf_skb_load_bytes(skb, ETH_HLEN + 8, v6, sizeof(v6))) return -1;
  tuple->src = v6[0];
  tuple->dst = v6[1];
  return 0;
}

/* The agent's probe that the SYN at `offset` is; 0: it is none. */
static __always_inline struct qanat_probe *find_probe(struct __sk_buff *skb, int offset) {
  struct qanat_tuple tuple = {};
  if (read_tuple(skb, offset, &tuple) || tuple.dport != QANAT_PORT_PROBE) return 0;
  return bpf_map_lookup_elem(&probes, &tuple);
}

/* It is to leave the pod. */
static __always_inline int is_traveller(const struct qanat_probe *probe) {
  __u32 role = QANAT_FIELD(probe->role);
  return role == QANAT_PROBE_PATH || role == QANAT_PROBE_SPOOF;
}

#endif /* QANAT_BPF_PACKET_H */
