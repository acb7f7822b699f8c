// SPDX-License-Identifier: Apache-2.0
// One pod inside the enroller. Private to enrol/.
#pragma once

#include "agent/enrol/enroller.h"

namespace qanat::agent {

struct Enroller::Entry {
  Entry(event::EventLoop& loop, std::function<void()> on_retry)
      : retry(loop, std::move(on_retry)) {}

  Pod pod;
  Membership membership;
  Wishes wishes;
  bool gone = false;
  bool leaving = false;  // gone, but its namespace still exists
  bool shown = true;     // false: taken over, and the source has not spoken of it yet

  uint32_t id = 0;      // 0: none yet
  uint32_t serial = 0;  // in the kernel's tables; 0: none yet
  uint64_t cookie = 0;
  PodFacts network;
  SavedSysctls sysctls;
  qanat_pod_state state{};  // as it is in the map
  uint32_t dns = 0;         // qanat_dns_families that go to the proxy

  bool prepared = false;
  bool attached = false;
  bool adding = false;
  bool filled = false;
  bool reads_draws = false;  // the proxy that filled it reads QANAT_MARK_DRAWN
  bool proven = false;
  bool cut_off = false;
  bool direct = false;             // the direct path has heard of it
  bool closed = false;             // was captured in another namespace: never open in its next one
  std::vector<uint32_t> programs;  // of anybody, beside ours in the pod, at the last proof
  std::string rewritten;       // not empty: somebody rewrites its connections since it was enrolled
  bool refused = false;        // something in the pod or on the node speaks against it
  bool uncapturable = false;   // it does not use the kernel's sockets
  std::string own_stack;       // of one that is captured all the same: how that shows
  uint64_t guard_dropped = 0;  // as last looked at
  uint32_t attempt = 0;        // of enrolment: what is answered to an earlier one is void
  uint32_t snapshot_attempt = 0;
  std::set<uint64_t> acked_by;  // proxies that acknowledged this pod

  std::unique_ptr<Proof> proof;
  event::TimePoint proving_since{};
  ProofReport report;
  event::TimePoint proof_began{}, proof_ended{};  // of the last one
  event::TimePoint proven_at{};

  Step step = Step::kNone;
  std::string reason;   // why it is not where it should be; empty when it is
  std::string written;  // last status file
  event::Timer retry;
  event::Duration backoff{};
  bool retracted = false;
  event::TimePoint restore_at{};  // of a pod that leaves the mesh and is still announced
  std::vector<std::pair<Waiter, event::TimePoint>> waiters;

  // Cookies of connections from before the capture that still lived when last looked at.
  std::vector<uint64_t> not_meshed;
  std::vector<std::string> outside;  // kinds of traffic that capture is not for, once seen
  // Of a pod that leaves the mesh: since when (CLOCK_BOOTTIME, ms), what still goes through
  // the proxy, and how many looks in a row found nothing.
  uint64_t drain_since = 0;
  size_t captured = 0;
  unsigned quiet_looks = 0;
  bool end_drain = false;
  std::set<uint64_t> granted;  // connections that a grant let in: plain to look at, and meshed

  // The node's ends of its veths, of these interfaces of its, and whether the direct path may be
  // trusted over them.
  HostEnds ends;
  std::vector<rtnl::Interface> ends_of;
  std::vector<net::IpAddress> sources;  // as the kernel knows them
  std::unique_ptr<direct::PathProbe> path;
  event::TimePoint path_at{};
  bool path_proved = false;
  std::string path_why;  // why not
  bool path_v4 = false, path_v6 = false;

  bool enforced() const {
    return state.mode == QANAT_MODE_ENFORCED || state.mode == QANAT_MODE_CUT;
  }
  bool draining() const { return state.mode == QANAT_MODE_DRAIN; }
  // Its entry in the map `pods`.
  qanat_pod kernel_pod() const {
    return {.id = id,
            .spoof_low = network.spoof_low,
            .spoof_high = network.spoof_high,
            .serial = serial,
            .ip4 = bpf::ToKernel(pod.Ip4()),
            .ip6 = bpf::ToKernel(pod.Ip6())};
  }
};

// A CNI call for a pod that the source has not shown yet.
struct Enroller::Pending {
  CniCall call;
  Waiter done;
  event::TimePoint deadline;
};

}  // namespace qanat::agent
