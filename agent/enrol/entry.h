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
  bool gone = false;
  bool leaving = false;  // gone, but its namespace still exists
  bool shown = true;     // false: taken over, and the source has not spoken of it yet

  uint32_t id = 0;  // 0: none yet
  uint64_t cookie = 0;
  PodFacts network;
  SavedSysctls sysctls;
  qanat_pod_state state{};  // as it is in the map
  uint32_t dns = 0;         // qanat_dns_families that go to the proxy

  bool prepared = false;
  bool attached = false;
  bool adding = false;
  bool filled = false;
  bool proven = false;
  bool cut_off = false;
  bool refused = false;         // something in the pod or on the node speaks against it
  std::set<uint64_t> acked_by;  // proxies that acknowledged this pod

  std::unique_ptr<Proof> proof;
  ProofReport report;
  event::TimePoint proven_at{};

  Step step = Step::kNone;
  std::string reason;   // why it is not where it should be; empty when it is
  std::string written;  // last status file
  event::Timer retry;
  event::Duration backoff{};
  bool retracted = false;
  event::TimePoint restore_at{};  // of a pod that leaves the mesh and is still announced
  std::vector<std::pair<Waiter, event::TimePoint>> waiters;

  bool enforced() const { return state.mode != QANAT_MODE_OFF; }
};

// A CNI call for a pod that the source has not shown yet.
struct Enroller::Pending {
  CniCall call;
  Waiter done;
  event::TimePoint deadline;
};

}  // namespace qanat::agent
