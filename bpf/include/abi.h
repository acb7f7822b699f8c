/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
 *
 * The contract between the kernel programs (bpf/) and user space (bpf/user, agent): names, sizes and
 * meanings of what lies in the pinned maps. The only header that both compilers see.
 *
 * Every map value here is plain data without padding surprises; bpf/user/abi_check.cc asserts sizes
 * and offsets. A change of any layout raises QANAT_ABI_VERSION. An agent that finds maps of another
 * layout takes over what lies in them by the names of fields (agent/redirect/migration.h), so that a
 * field whose meaning changes gets another name, and so does a map of sockets (SOCKMAP, SK_STORAGE)
 * whose layout changes: its entries cannot be copied.
 */
#ifndef QANAT_BPF_ABI_H
#define QANAT_BPF_ABI_H

#ifndef __bpf__
#include <linux/types.h>
#endif

#define QANAT_ABI_VERSION 3
/* Agents of this version and later may take these maps over by the rule above. Raised together with
 * the version by a change that an older agent would misunderstand. */
#define QANAT_ABI_OLDEST 3

/* map `abi`: array of one: who made the maps. Of version 1 there is none. */
struct qanat_abi {
  __u32 version; /* these two never move: agents of every version read them */
  __u32 oldest;
};

/* Marks, meaningful inside a pod's network namespace only. */
#define QANAT_MARK_PROXY 0x539u    /* a proxy's socket: goes out, has no ip rule */
#define QANAT_MARK_CAPTURE 0x53au  /* an application's connection: ip rule -> table 101 */
#define QANAT_MARK_LO_LEG 0x53bu   /* proxy to application over lo: ip rule -> table 101 */
#define QANAT_MARK_ONE_PASS 0x53cu /* our proxy's same-node connection: asks for a grant */
/* Captured as well; what is above these 12 bits says which endpoint of the service the connect hook
 * has drawn (struct qanat_vip), for a proxy that reads it: ip rule with this mask -> table 101. */
#define QANAT_MARK_DRAWN 0x53du
#define QANAT_MARK_MASK 0xfffu
#define QANAT_DRAW_SHIFT 12
#define QANAT_ROUTE_TABLE 101

#define QANAT_PORT_OUTBOUND 15001
#define QANAT_PORT_INBOUND 15006
#define QANAT_PORT_HBONE 15008
/* Destination port of the agent's probes. An application may use it: only exact tuples in `probes`
 * are treated specially. */
#define QANAT_PORT_PROBE 15009

/* The proxy's DNS listener inside the pod, for UDP and TCP. */
#define QANAT_PORT_DNS 15053

#define QANAT_MAX_PODS 512
#define QANAT_MAX_WORKERS 16
#define QANAT_MAX_GRANTS 65536
#define QANAT_MAX_VERDICTS 65536
#define QANAT_MAX_FLOWS 65536
#define QANAT_MISSES_BYTES 65536
#define QANAT_MAX_VIPS 16384
#define QANAT_MAX_SUSPENDED 4096
#define QANAT_MAX_OWN_IPS 4096
#define QANAT_OWN_IPS_PER_POD 32
#define QANAT_MAX_PEERS 4
#define QANAT_MAX_POD_ROOTS 4
#define QANAT_CGROUP_DEPTH 12 /* how far up a cgroup is compared */

/* A grant is good for this long; a connect still retrying after it is ordinary inbound traffic. */
#define QANAT_GRANT_LIFETIME_NS 30000000000ull

enum qanat_role {
  QANAT_ROLE_OUTBOUND = 0, /* listener on 15001 */
  QANAT_ROLE_INBOUND = 1,  /* 15006 */
  QANAT_ROLE_HBONE = 2,    /* 15008 */
  QANAT_ROLES = 3,
};

/* An address in network order; IPv4 is kept IPv4-mapped, so that one address has one key. */
struct qanat_ip {
  __u32 word[4];
};

/* A connection as its client sees it; ports in host order. */
struct qanat_tuple {
  struct qanat_ip src;
  struct qanat_ip dst;
  __u16 sport;
  __u16 dport;
};

/* map `pods`: netns cookie -> pod. Being in it says that the namespace is ours, not that it is
 * captured: that is qanat_pod_state.mode. */
struct qanat_pod {
  __u32 id;        /* 1 .. QANAT_MAX_PODS-1; index of pod_state and counters */
  __u16 spoof_low; /* the proxy's spoofed sources get a port in [spoof_low, spoof_high] */
  __u16 spoof_high;
  __u32 serial;        /* this pod and no other: an id is given out again, a serial never */
  struct qanat_ip ip4; /* zero: the pod has none */
  struct qanat_ip ip6;
};

enum qanat_mode {
  QANAT_MODE_OFF = 0,      /* plain networking; only probes are handled */
  QANAT_MODE_ENFORCED = 1, /* captured; what cannot be handed to the proxy is refused */
  QANAT_MODE_CUT = 2,      /* capture is known broken: refuse all new TCP */
  /* The pod leaves the mesh: what begins now is plain, what is captured goes on as it is. */
  QANAT_MODE_DRAIN = 3,
};

enum qanat_pod_flag {
  QANAT_DIRECT_FROM = 1 << 0, /* its connections may go straight to applications of this node */
  QANAT_DIRECT_TO = 1 << 1,   /* such connections may come to it */
};

/* map `pod_state`: array by pod id. One store of `mode` flips every hook at once, one of `flags`
 * takes the pod off the direct path. */
struct qanat_pod_state {
  __u32 mode;
  __u32 generation;           /* grants of another generation are void */
  __u32 workers[QANAT_ROLES]; /* slots to hash over, at most QANAT_MAX_WORKERS */
  __u32 flags;                /* qanat_pod_flag */
  __u32 floor;                /* verdicts towards this pod of a lower generation are void */
};

/* map `direct`: array of one. The agent's lease on the direct path; without it every connection
 * goes through the proxy. */
struct qanat_direct {
  __u64 lease_until; /* CLOCK_BOOTTIME: CLOCK_MONOTONIC stands still while a machine sleeps */
  __u32 generation;  /* verdicts of a lower generation are void */
  __u32 on;
  /* Only the agent reads these; here they outlive it. */
  __u32 next_serial;     /* for qanat_pod.serial */
  __u32 last_generation; /* the highest that a verdict had */
};

/* map `verdicts`: what the agent's policy engine says of one pod, one destination pod and one port.
 * The source is the pod and not its identity: a policy may name addresses. */
struct qanat_verdict_key {
  __u32 src_serial;
  __u32 dst_serial;
  __u16 port;
  __u8 family; /* 4 or 6: of what goes over the wire */
  __u8 reserved;
};
enum qanat_verdict_what {
  QANAT_VERDICT_ASKED = 0, /* put by the connect hook; the agent has not answered yet */
  QANAT_VERDICT_NO = 1,    /* goes through the proxy, which decides */
  QANAT_VERDICT_DIRECT = 2,
};
struct qanat_verdict {
  __u32 generation;
  __u32 policy; /* which policy allowed it, for records; the agent's number */
  __u32 what;
};

/* map `misses` (RINGBUF): a connection for which there is no verdict, once for each key. With a
 * dst_serial of 0: to an address that is no pod's of this node, and `vips` has nothing of it. */
struct qanat_miss {
  struct qanat_verdict_key key;
  struct qanat_ip dst;
};

/* map `vips`: a service's address and port as one pod sees it: among which endpoints a connection
 * is drawn. Only whether the drawn one may be reached straight is asked of `verdicts`. */
#define QANAT_VIP_ENDPOINTS 8
struct qanat_vip_key {
  struct qanat_ip ip;
  __u32 src_serial;
  __u16 port;
  __u16 reserved;
};
struct qanat_vip_endpoint {
  __u32 until;      /* the sum of the weights up to this one and with it */
  __u32 dst_serial; /* 0: no pod of this node, or none that may be reached straight */
  __u32 code;       /* how the proxy is told of it, above QANAT_DRAW_SHIFT; 0: it is not */
  __u16 port;       /* ip and port only with a dst_serial */
  __u16 reserved;
  struct qanat_ip ip;
};
struct qanat_vip {
  __u32 total; /* of the weights; 0: the proxy picks (asked, or the kernel is not to draw) */
  __u32 count; /* of `endpoints`; those behind have the last one's `until` */
  struct qanat_vip_endpoint endpoints[QANAT_VIP_ENDPOINTS];
};

/* map `suspended` (LRU): an endpoint that one pod did not reach by a draw is left to the proxy,
 * which can try another one: for a second at first, twice as long each time, up to half a minute.
 * A connection that comes about ends it. */
struct qanat_suspended_key {
  __u32 src_serial;
  __u32 dst_serial;
  __u32 port;
};
struct qanat_suspended {
  __u64 until_ns; /* CLOCK_MONOTONIC */
  __u32 failures;
  __u32 reserved;
};
#define QANAT_SUSPEND_FIRST_NS 1000000000ull
#define QANAT_SUSPEND_MOST_NS 30000000000ull
/* map `asked`: array by pod id: entries that this pod's connections put into `verdicts` and `vips`
 * and that are not answered. The agent writes it, and the hook stops asking at the limit. */
#define QANAT_MAX_ASKED 64

/* map `own_ips`: addresses of a pod's namespace besides the one or two that it is known by (a
 * second interface, secondary addresses). The proxy reaches the application by them; no grant leads
 * there. */
struct qanat_own_ip {
  __u32 pod_id;
  struct qanat_ip ip;
};

/* map `listeners` (SOCKMAP): one slot per pod, role and proxy worker. */
static inline __u32 qanat_slot(__u32 pod_id, __u32 role, __u32 worker) {
  return (pod_id * QANAT_ROLES + role) * QANAT_MAX_WORKERS + worker;
}

enum qanat_grant_kind {
  QANAT_GRANT_HOST = 1,   /* the node's own connection: a probe */
  QANAT_GRANT_PROXY = 2,  /* the proxy's, which has evaluated policy: one pass */
  QANAT_GRANT_DIRECT = 3, /* an application's, by a verdict */
};

/* map `grants`: tuple -> grant. The one way past the proxy into a captured pod. */
struct qanat_grant {
  __u64 source;     /* netns cookie of the connecting socket */
  __u64 socket;     /* its socket cookie: whose close removes the grant */
  __u64 time_ns;    /* CLOCK_MONOTONIC */
  __u32 pod_id;     /* destination */
  __u32 generation; /* of the destination when it was granted */
  __u32 kind;
  __u32 verdict; /* generation of the verdict behind a direct one */
};

/* .rodata of sk_lookup: where the fields of a grant of another layout are (bytes). */
struct qanat_before {
  __u32 on;
  __u32 pod_id;
  __u32 generation;
  __u32 time_ns;
  __u32 kind;
  __u32 has_kind;
};

/* map `budgets`: netns cookie -> grants in flight from there. */
struct qanat_budget {
  __u32 in_flight;
  __u32 limit; /* 0: QANAT_BUDGET_DEFAULT */
};
/* Times QANAT_MAX_PODS this is QANAT_MAX_GRANTS: no source can take another's place in the map. */
#define QANAT_BUDGET_DEFAULT 128

/* map `flows`: client's tuple -> a direct connection that lives. What is not in it was not let
 * through: it is how the agent finds connections to end and to tell of. */
struct qanat_flow {
  __u64 client;  /* socket cookies */
  __u64 server;  /* 0: not accepted yet */
  __u64 time_ns; /* CLOCK_MONOTONIC, of the connect */
  __u32 src_serial;
  __u32 dst_serial;
  __u32 policy;
  __u32 generation; /* of the verdict */
};

/* map `direct_sk` (SK_STORAGE): both ends of direct connections, and of those that are recorded. */
enum qanat_direct_state {
  QANAT_DIRECT_NONE = 0,
  QANAT_DIRECT_CHOSEN = 1,  /* the connect hook took it off the proxy's path */
  QANAT_DIRECT_GRANTED = 2, /* sockops published its tuple: its SYN may leave */
  QANAT_DIRECT_SERVER = 3,  /* the accepted end */
};
struct qanat_direct_sk {
  __u32 state;
  __u32 src_serial;
  __u32 dst_serial;
  __u32 policy;
  __u32 generation; /* of the verdict */
  __u32 port;
  __u32 vip_port; /* 0: asked for by the pod's own address; else what the application asked for */
  struct qanat_ip vip;
  /* For its record; one storage serves both, since to make one is most of what a record costs. */
  __u32 path;   /* qanat_path; 0: none is due */
  __u32 serial; /* of the pod whose socket it is */
  __u32 reserved;
  __u64 start_ns;
  __u64 established_ns; /* 0: not yet */
};

/* map `records` (RINGBUF): a TCP connection of an enrolled pod's application, when its socket
 * closes. The proxy's sockets have none, nor has what stays inside a pod. A record that found no
 * room is counted (QANAT_CNT_RECORDS_LOST). */
#define QANAT_RECORDS_BYTES (1 << 20)
enum qanat_path {
  QANAT_PATH_NONE = 0,
  QANAT_PATH_CAPTURED = 1, /* client: to the proxy */
  QANAT_PATH_DIRECT = 2,   /* client and server */
  QANAT_PATH_PROXIED = 3,  /* server: from the proxy, over lo */
  QANAT_PATH_ONE_PASS = 4, /* server: from the proxy, by its grant */
  QANAT_PATH_PROBE = 5,    /* server: from the node, by its grant */
};
enum qanat_record_flag {
  QANAT_RECORD_SERVER = 1 << 0,
  QANAT_RECORD_ESTABLISHED = 1 << 1,
  QANAT_RECORD_DETAILS = 1 << 2, /* the last six fields are known on this kernel */
};
struct qanat_record {
  struct qanat_tuple tuple;
  __u32 serial;      /* of the pod whose socket it was */
  __u32 peer_serial; /* direct: of the other end's */
  __u32 policy;      /* direct: which one allowed it */
  __u64 start_ns;    /* CLOCK_MONOTONIC, of connect() or of the handshake's end */
  __u64 end_ns;
  __u64 bytes_sent; /* payload, each byte once */
  __u64 bytes_received;
  __u32 connect_us; /* client: how long the handshake took */
  __u32 srtt_us;
  __u32 min_rtt_us; /* ~0: never measured */
  __u32 retransmits;
  __u32 segments_out; /* with payload, retransmitted ones too */
  __u32 segments_in;
  __u32 rate_delivered; /* segments of `mss` in rate_interval_us, when last measured */
  __u32 rate_interval_us;
  __u32 mss;
  __u16 error; /* errno: a reset or a timeout; 0: none, or our own end's reset */
  __u8 path;
  __u8 flags;
  __u8 last_state; /* LAST_ACK: the peer closed first; FIN_WAIT2, CLOSING: we; else it broke */
  __u8 reserved[3];
  /* In ticks of the kernel (CLOCK_MONOTONIC_COARSE has their length). */
  __u32 busy;           /* with something sent and not acknowledged */
  __u32 rwnd_limited;   /* ... and the peer's window full */
  __u32 sndbuf_limited; /* ... and our send buffer too small */
  __u32 response;       /* from the last byte received to the last one sent, else 0 */
  __u32 reordered;      /* how often segments were seen to arrive out of order */
  __u32 out_of_order;   /* segments that came in so */
};

/* map `origins` (SK_STORAGE): why a socket may do what applications may not. */
enum qanat_origin {
  QANAT_ORIGIN_HOST = 1,  /* a socket of the node's namespace and of no pod's cgroup */
  QANAT_ORIGIN_PROXY = 2, /* a socket of the ZDS peer inside a pod */
};
struct qanat_origin_record {
  __u32 origin;
  __u32 granted; /* a grant was published for its present tuple */
};

/* maps `early` (SK_STORAGE, written by the connect hook) and `early_cookies` (by socket cookie,
 * written by the agent): when a socket began to connect while its pod was not captured. Its SYN may
 * be lost and have to be sent again after the flip; the second guard lets it pass. Both end with
 * the socket's next connect(). A kernel of default settings sends its last SYN after 63 s. */
#define QANAT_EARLY_NS 70000000000ull
#define QANAT_MAX_EARLY 4096

/* map `probes`: tuple -> what the hooks did with it. The agent puts the tuple in, connects, and
 * reads the answer; the listener never sees a probe. */
enum qanat_probe_seen {
  QANAT_SEEN_CONNECT = 1 << 0, /* connect hook ran */
  QANAT_SEEN_MARKED = 1 << 1,  /* ... and set the capture mark */
  QANAT_SEEN_SOCKOPS = 1 << 2, /* sockops saw the connect and would have granted it */
  QANAT_SEEN_LOOKUP = 1 << 3,  /* sk_lookup of the pod saw the SYN */
  QANAT_SEEN_ASSIGN = 1 << 4,  /* ... and bpf_sk_assign accepted the listener */
  QANAT_SEEN_GUARD = 1 << 5,   /* the second guard stopped it: it was about to leave uncaptured */
  QANAT_SEEN_BIND = 1 << 6,    /* the bind hook gave it a port */
  /* Of probes that leave the pod. */
  QANAT_SEEN_HOST_IN = 1 << 7,       /* came out of the pod's veth */
  QANAT_SEEN_SIGNED = 1 << 8,        /* ... with the second guard's sign */
  QANAT_SEEN_STOPPED = 1 << 9,       /* ... and was dropped for its source */
  QANAT_SEEN_HOST_OUT = 1 << 10,     /* was about to enter the other pod */
  QANAT_SEEN_OTHER_WAY = 1 << 11,    /* ... but by another interface than the pod's */
  QANAT_SEEN_OTHER_SOURCE = 1 << 12, /* ... but with another source */
};
/* Roles of probes that are to reach no listener. The first is let out by the connect hook, for the
 * guard to stop. The second is a bind, not a connection: its tuple is {address, {0, 0, 0, pod id},
 * 0, QANAT_PORT_PROBE}. */
#define QANAT_PROBE_GUARD 3u
#define QANAT_PROBE_BIND 4u
/* Over the pod's veth to another pod's, or to the node, where it ends with the first program: with
 * the pod's own source, and with one that is not its. What waits for a source that was changed on
 * the way is {0, destination, 0, QANAT_PORT_PROBE} with the pod's veth as slot. */
#define QANAT_PROBE_PATH 5u
#define QANAT_PROBE_SPOOF 6u
struct qanat_probe {
  __u32 seen;
  __u32 pod_id; /* of the sk_lookup that saw it */
  __u32 role;   /* the role it chose */
  __u32 slot;   /* the slot it assigned; of one that leaves: the veth that it came out of */
};

/* map `host_ends`: interface of the node -> the pod at the other end of that veth. */
enum qanat_end_flag {
  QANAT_END_SIGNED = 1 << 0,     /* the guard's sign crosses the veth: a SYN must carry it */
  QANAT_END_ANY_SOURCE = 1 << 1, /* the pod has more addresses than are known here */
};
struct qanat_host_end {
  __u64 netns; /* cookie */
  __u32 pod_id;
  __u32 flags;
  struct qanat_ip ip4; /* zero: the pod has none */
  struct qanat_ip ip6;
};
#define QANAT_MAX_HOST_ENDS 2048
/* map `source_ips`: as `own_ips`, those of them that the pod may send from: not another pod's of
 * this node, nor the node's, whatever the pod has given itself. */
/* In skb->tc_index, which survives a veth (mark and others do not) and which no socket can set. */
#define QANAT_SYN_SIGN 0x5141

/* map `answers` (PERCPU_ARRAY of one): the pod whose sk_lookup answered last on this CPU. */

struct qanat_cgroup {
  __u64 id; /* 0: empty */
};

/* map `config`: array of one. */
struct qanat_config {
  __u64 host_cookie;                                  /* the node's network namespace */
  struct qanat_cgroup peers[QANAT_MAX_PEERS];         /* cgroups of ZDS peers that still live */
  struct qanat_cgroup pod_roots[QANAT_MAX_POD_ROOTS]; /* below these live pods */
};

/* DNS. Servers that a pod asks by UDP have slots in its table; a question goes to the server's
 * alias, whose low 16 bits are generation * QANAT_DNS_SERVERS + slot: 127.53.x.y, or the same word
 * below a /96 that the agent makes local to the pod. The kernel drops packets of the wire that come
 * from 127.0.0.0/8, but not those from a prefix of the pod's own: so the prefix is a secret. */
#define QANAT_DNS_SERVERS 64
#define QANAT_DNS_GENERATIONS 1024
#define QANAT_DNS_ALIAS 0x7f350000u
/* A slot that was not asked for this long may become another server's. The proxy has long answered
 * by then. */
#define QANAT_DNS_IDLE_NS 60000000000ull
/* For this long after a question that was left alone the pod's servers may answer from outside. */
#define QANAT_DNS_ANSWER_NS 6000000000ull

struct qanat_dns_server {
  struct qanat_ip ip; /* zero: free */
  __u64 used_ns;      /* CLOCK_MONOTONIC of the last question; 0: never */
  __u32 generation;
  __u32 reserved;
};

#ifdef __bpf__
struct bpf_spin_lock { /* the kernel knows it by its name */
  __u32 val;
};
#endif

/* map `dns_tables`: pod id -> the servers it has asked. The agent makes and removes it; after that
 * only the kernel writes into it. */
struct qanat_dns_table {
#ifdef __bpf__
  struct bpf_spin_lock lock;
#else
  __u32 lock;
#endif
  __u32 prefix[3];     /* of the IPv6 aliases, network order; written once, by the agent */
  __u64 wire_until_ns; /* until then answers from outside are let in */
  __u64 reserved;
  struct qanat_dns_server servers[QANAT_DNS_SERVERS];
};

/* map `dns_on`: array by pod id; questions of these families go to the proxy. */
enum qanat_dns_families {
  QANAT_DNS_V4 = 1 << 0,
  QANAT_DNS_V6 = 1 << 1,
};

/* map `counters` (PERCPU_ARRAY by pod id; 0 is the node itself). Names: bpf/user/counters.cc. */
enum qanat_counter {
  QANAT_CNT_CAPTURED = 0,       /* connections marked for the proxy */
  QANAT_CNT_LOCAL,              /* to loopback or the pod's own address: untouched */
  QANAT_CNT_PROXY_OUT,          /* the proxy's own connections */
  QANAT_CNT_PROXY_LO_LEG,       /* the proxy's connections to the application */
  QANAT_CNT_PROXY_BIND,         /* spoofed binds that were given a port */
  QANAT_CNT_UNBOUND_DEVICE,     /* SO_BINDTODEVICE was undone */
  QANAT_CNT_UDP,                /* UDP connects, which pass */
  QANAT_CNT_REFUSED_DEVICE,     /* bound to a device and not allowed to undo it */
  QANAT_CNT_REFUSED_MARK,       /* the capture mark could not be set */
  QANAT_CNT_REFUSED_LINK_LOCAL, /* TCP to an IPv6 link-local address cannot be captured */
  QANAT_CNT_REFUSED_FAMILY,     /* the pod has no address of this family */
  QANAT_CNT_REFUSED_CUT,        /* capture is broken */
  QANAT_CNT_REFUSED_STORAGE,    /* no memory for socket storage */
  QANAT_CNT_TO_OUTBOUND,        /* SYNs given to 15001 */
  QANAT_CNT_TO_INBOUND,         /* SYNs given to 15006 */
  QANAT_CNT_TO_HBONE,           /* SYNs given to 15008 */
  QANAT_CNT_DROP_PROXY_PORT,    /* from the wire to 15001 or 15006 */
  QANAT_CNT_DROP_NO_LISTENER,   /* no live listener in the slots: the proxy is away */
  QANAT_CNT_DROP_ASSIGN,        /* bpf_sk_assign refused the listener */
  QANAT_CNT_GRANT_HOST,         /* grants published for the node's probes */
  QANAT_CNT_GRANT_PROXY,        /* ... for one-pass connections */
  QANAT_CNT_GRANT_USED,         /* SYNs that passed by a grant */
  QANAT_CNT_GRANT_STALE,        /* grant found, but too old or of another generation */
  QANAT_CNT_GRANT_OVER_BUDGET,  /* refused: too many in flight from one source */
  QANAT_CNT_GRANT_FULL,         /* refused: the map is full */
  QANAT_CNT_GUARD_DROPPED,      /* SYNs that were about to leave uncaptured */
  QANAT_CNT_DIRECT,             /* connections that went straight to the application's pod */
  QANAT_CNT_DIRECT_ACCEPTED,    /* ... accepted there */
  QANAT_CNT_DIRECT_RETAKEN,     /* captured after all: something changed since connect() */
  QANAT_CNT_DIRECT_FLOW_FULL,   /* captured: no room in the table of flows */
  QANAT_CNT_DIRECT_ASKED,       /* no verdict yet: the agent was asked */
  QANAT_CNT_DIRECT_NOT_ASKED,   /* no verdict, and too many questions open */
  QANAT_CNT_DNS,                /* questions by UDP given to the proxy (connected: once) */
  QANAT_CNT_DNS_TCP,            /* connections to port 53 given to the proxy's DNS */
  QANAT_CNT_DNS_FULL,           /* left alone: every slot of the pod is another server's */
  QANAT_CNT_DNS_DEVICE,         /* left alone: the socket is bound to a device */
  QANAT_CNT_DNS_DROPPED,        /* UDP from outside: to 15053, or from a server not asked there */
  QANAT_CNT_PLAIN_INBOUND,      /* SYNs that passed because the pod asks for plain inbound */
  QANAT_CNT_GUARD_EARLY,        /* SYNs of connects that began before the capture */
  /* Packets of a captured pod that capture is not for, as they leave. */
  QANAT_CNT_OUTSIDE_UDP,
  QANAT_CNT_OUTSIDE_ICMP,  /* pings only */
  QANAT_CNT_OUTSIDE_SCTP,
  QANAT_CNT_OUTSIDE_OTHER, /* any other protocol above IP: raw sockets, tunnels */
  QANAT_CNT_FOREIGN_SOURCE, /* packets out of the pod with a source that is not its */
  QANAT_CNT_UNSIGNED_SYN,   /* SYNs out of the pod that passed its second guard by */
  QANAT_CNT_GRANT_FORGED,   /* SYNs with another pod's granted tuple, at the pod's door */
  QANAT_CNT_INBOUND_OPEN,   /* SYNs into the pod while its sk_lookup was not there */
  /* Connections to services that the connect hook drew an endpoint for. */
  QANAT_CNT_VIP_DIRECT,    /* ... and went straight to it (also in DIRECT) */
  QANAT_CNT_VIP_PROXY,     /* ... which the proxy reaches (also in CAPTURED) */
  QANAT_CNT_VIP_SUSPENDED, /* ... left to the proxy's pick: it did not answer lately */
  QANAT_CNT_RECORDS_LOST,  /* connections whose record found the ring full (pod 0) */
  QANAT_COUNTERS,
};
struct qanat_counters {
  __u64 value[QANAT_COUNTERS];
};

#endif /* QANAT_BPF_ABI_H */
