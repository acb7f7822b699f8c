// SPDX-License-Identifier: Apache-2.0
// One of several replicas leads: it holds a Lease and renews it. Timing and protocol are those of
// Kubernetes' own components (client-go), so kubectl shows it as usual and replicas of different
// versions understand each other. The Lease also says the holder's version: of replicas of
// different versions the newer ones go first. On the control plane's loop.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "common/event/event_loop.h"
#include "common/kube/client.h"

namespace qanat::controlplane {

struct LeaseOptions {
  std::string ns;
  std::string name = "qanat-controlplane-leader";
  std::string identity;                       // of this replica: its pod's name
  std::string version;                        // of this program, "1.2.3"
  std::chrono::milliseconds duration{15000};  // others wait so long after the last renewal
  std::chrono::milliseconds deadline{10000};  // the leader gives up after so long without success
  std::chrono::milliseconds retry{2000};
};

// Whether version `a` ("1.10.0", "v1.10.0-rc.1") is newer than `b`, by its numbers. What is no
// version is newer than nothing.
bool IsNewer(std::string_view a, std::string_view b);

class LeaderElection {
 public:
  // `on_change(true)` when this replica starts to lead, `on_change(false)` when it no longer does;
  // never from inside the constructor.
  LeaderElection(event::EventLoop& loop, kube::Client& client, LeaseOptions options,
                 std::function<void(bool)> on_change);

  // Leads, and renewed recently enough that nobody else can: asked before every write, since the
  // process may have been stopped for a while.
  bool leading() const;
  const std::string& leader() const { return observed_holder_; }  // "" when unknown
  // At shutdown: gives the lease up, so that another replica need not wait. `done` is called in any
  // case.
  void Release(std::function<void()> done);

 private:
  void Ask();
  void Got(Result<kube::CallResponse> response);
  kube::CallRequest LeaseRequest(const std::string& holder, std::chrono::milliseconds valid,
                                 const std::string& version) const;
  void Write(const std::string& version, std::string acquired, int64_t transitions);
  void Written(Result<kube::CallResponse> response, bool made);
  void Failed(const Error& error);
  void SetLeading(bool leading);
  void Expire();
  void Again();
  // When a lease that nobody renews may be taken: later by who is older than the last holder.
  std::chrono::milliseconds TakenAfter(std::chrono::milliseconds valid,
                                       const std::string& version) const;

  kube::Client& client_;
  const LeaseOptions options_;
  const std::function<void(bool)> on_change_;
  event::Timer timer_;
  event::Timer expiry_;  // the deadline, whatever a renewal in flight is waiting for
  kube::HandlePtr call_;
  bool leading_ = false;
  bool released_ = false;
  event::TimePoint asked_at_{};    // the renewal in flight: it counts from before it was sent
  event::TimePoint renewed_at_{};  // the last successful one
  std::string observed_record_;    // holder and times as last seen, and since when unchanged
  std::string observed_holder_;
  std::string observed_version_;
  event::TimePoint observed_at_{};
  std::string version_;   // resourceVersion of our own last write
  std::string acquired_;  // since when we lead, RFC 3339
  int64_t transitions_ = 0;
  std::string last_error_;
};

}  // namespace qanat::controlplane
