// SPDX-License-Identifier: Apache-2.0
// How a pod leaves: back to plain networking when it left the mesh, closed to the end when it was
// deleted.
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "agent/enrol/entry.h"
#include "agent/redirect/dns_switch.h"
#include "agent/redirect/own_ips.h"
#include "common/base/log.h"

namespace qanat::agent {
namespace {

// A change of the pod's annotation reaches other proxies in well under a second.
constexpr auto kAfterRetraction = std::chrono::milliseconds(700);
constexpr auto kAnnouncedAtMost = std::chrono::seconds(3);

}  // namespace

// As long as the pod is announced as captured, others send it HBONE: it must not lose its listeners
// before that is taken back and had time to reach them.
bool Enroller::MayRestore(Entry& entry) {
  const auto now = loop_.now();
  const bool announced = !PublishedOf(entry.pod).empty();
  if (!observer_) return true;
  if (entry.restore_at == event::TimePoint{}) {
    if (!announced) return true;
    entry.restore_at = now + kAnnouncedAtMost;
    entry.retracted = false;
  } else if (!announced && !entry.retracted) {
    entry.retracted = true;
    entry.restore_at = std::min<event::TimePoint>(entry.restore_at, now + kAfterRetraction);
  }
  if (now >= entry.restore_at) return true;
  Explain(entry, "");
  WriteStatus(entry);
  entry.retry.Start(entry.restore_at - now);
  return false;
}

Status Enroller::Restore(Entry& entry) {
  entry.proof.reset();
  HideDirect(entry);
  if (entry.id != 0) QANAT_RETURN_IF_ERROR(SetMode(entry, QANAT_MODE_OFF));
  if (zds_) zds_->Del(entry.pod.uid);
  if (auto ns = OpenNs(entry)) {
    if (Status restored = RestorePodNetwork(*ns, entry.sysctls); !restored)
      LOG_WARN("enrol", "{}: {}", entry.pod.FullName(), restored.error().message);
  }
  ReleaseKernelState(entry);
  return {};
}

// An enrolment that did not come to its end leaves nothing behind; it begins anew with the next
// attempt. Only of a pod that was never captured: one that was stays closed.
void Enroller::Undo(Entry& entry) {
  if (entry.id == 0 && entry.cookie == 0) return;
  const bool uncapturable = entry.uncapturable;
  if (zds_ && (entry.adding || !entry.acked_by.empty())) zds_->Del(entry.pod.uid);
  if (auto ns = OpenNs(entry)) {
    if (Status restored = RestorePodNetwork(*ns, entry.sysctls); !restored)
      LOG_WARN("enrol", "{}: {}", entry.pod.FullName(), restored.error().message);
  }
  ReleaseKernelState(entry);
  entry.uncapturable = uncapturable;
}

// Everything that the kernel knows of the pod; the namespace itself is not touched.
void Enroller::ReleaseKernelState(Entry& entry) {
  bpf::NodeMaps& maps = hooks_.maps();
  HideDirect(entry);
  entry.proof.reset();
  if (on_released_) on_released_(entry.pod.uid);
  if (entry.id != 0) {
    hooks_.DetachPod(entry.id);
    EmptySlots(maps, entry.id);
    ForgetDns(maps, entry.id);
    (void)SyncOwnIps(maps, entry.id, {});
    entry.state.mode = QANAT_MODE_OFF;
    ++entry.state.generation;
    (void)maps.pod_state.Update(entry.id, entry.state);
  }
  if (entry.cookie != 0) {
    (void)maps.pods.Erase(entry.cookie);
    (void)maps.budgets.Erase(entry.cookie);
    for (const auto& ip : entry.pod.ips) {
      auto owner = maps.pod_ips.Lookup(bpf::ToKernel(ip));
      // The address may be another pod's by now.
      if (owner && *owner && **owner == entry.cookie) (void)maps.pod_ips.Erase(bpf::ToKernel(ip));
    }
  }
  entry.id = 0;
  entry.serial = 0;
  entry.cookie = 0;
  entry.state = {};
  entry.dns = 0;
  entry.prepared = entry.attached = entry.adding = entry.filled = entry.proven = entry.cut_off =
      entry.closed = false;
  entry.uncapturable = false;
  entry.own_stack.clear();
  entry.guard_dropped = 0;
  ++entry.attempt;
  entry.acked_by.clear();
  entry.programs.clear();
  entry.rewritten.clear();
  entry.sysctls.clear();
  entry.not_meshed.clear();
  entry.outside.clear();
  entry.granted.clear();
  entry.drain_since = entry.captured = entry.quiet_looks = 0;
  entry.end_drain = false;
  entry.report = {};
  entry.restore_at = {};
  store_.Remove(entry.pod.uid);
}

void Enroller::Leave(Entry& entry) {
  HideDirect(entry);
  if (zds_) zds_->Del(entry.pod.uid);
  if (on_released_) on_released_(entry.pod.uid);
  entry.proof.reset();
  entry.adding = false;
  if (!entry.enforced() && !entry.draining()) {  // it never was captured: nothing to hold closed
    if (auto ns = OpenNs(entry)) (void)RestorePodNetwork(*ns, entry.sysctls);
    Forget(entry);
    return;
  }
  if (!OpenNs(entry)) {
    Forget(entry);
    return;
  }
  // Its processes may outlive the pod object: closed until the namespace is gone.
  entry.leaving = true;
  entry.filled = false;
  EmptySlots(hooks_.maps(), entry.id);
  ::unlink((options_.status_dir + "/" + entry.pod.uid + ".json").c_str());
  entry.written.clear();
  LOG_INFO("enrol", "{}: deleted; stays closed until its namespace is gone", entry.pod.FullName());
}

void Enroller::Forget(Entry& entry) {
  LOG_INFO("enrol", "{}: forgotten", entry.pod.FullName());
  const std::string uid = entry.pod.uid;
  ReleaseKernelState(entry);
  ::unlink((options_.status_dir + "/" + uid + ".json").c_str());
  if (observer_) observer_(PodView{.uid = uid});
  auto it = entries_.find(uid);
  if (it == entries_.end()) return;
  // A timer of the entry may be what called us.
  loop_.Post([dead = std::shared_ptr<Entry>(std::move(it->second))] {});
  entries_.erase(it);
}

}  // namespace qanat::agent
