// SPDX-License-Identifier: Apache-2.0
// What the source of pods says, and what the node as a whole allows.
#include "agent/enrol/entry.h"
#include "common/base/log.h"

namespace qanat::agent {

void Enroller::OnPod(const Pod& shown) {
  Pod pod = shown;
  auto& slot = entries_[pod.uid];
  if (!slot) {
    const std::string uid = pod.uid;
    slot = std::make_unique<Entry>(loop_, [this, uid] {
      if (Entry* e = Find(uid)) Advance(*e);
    });
  }
  Entry& entry = *slot;
  // A source that does not know them yet, or no longer, says nothing about them.
  if (pod.netns.empty()) pod.netns = entry.pod.netns;
  if (pod.ips.empty()) pod.ips = entry.pod.ips;
  const bool moved = entry.id != 0 && entry.pod.netns != pod.netns && !entry.pod.netns.empty() &&
                     !SameNamespace(entry, pod.netns);
  const bool readdressed = entry.pod.ips != pod.ips;
  if (moved) {  // same pod, new sandbox
    Move(entry);
  } else if (readdressed && entry.prepared) {
    for (const auto& ip : entry.pod.ips) {
      auto owner = hooks_.maps().pod_ips.Lookup(bpf::ToKernel(ip));
      if (owner && *owner && **owner == entry.cookie)
        (void)hooks_.maps().pod_ips.Erase(bpf::ToKernel(ip));
    }
    HideDirect(entry);
    entry.prepared = entry.attached = entry.proven = false;
  }
  const bool plain_inbound = entry.wishes.plain_inbound;
  entry.pod = pod;
  entry.wishes = ReadWishes(pod);
  if (plain_inbound != entry.wishes.plain_inbound) {  // the same hooks with other constants
    entry.attached = entry.proven = false;
    if (entry.id != 0) Save(entry);
  }
  entry.gone = entry.leaving = false;
  entry.shown = true;
  entry.membership = released_.empty() ? DecideMembership(pod) : Membership{false, released_};
  if (entry.membership.in_mesh) entry.restore_at = {};
  entry.backoff = {};
  entry.retry.Stop();
  // A finished pod has given its processes up; its namespace is about to go.
  if (!entry.membership.in_mesh && (entry.enforced() || entry.draining()) &&
      (pod.phase == "Succeeded" || pod.phase == "Failed"))
    entry.gone = true;
  const std::string uid = pod.uid;
  Advance(entry);
  if (Entry* still = Find(uid)) {
    ShowDirect(*still);
    if (observer_) observer_(ViewOf(*still));
  }
  ServePending();
}

void Enroller::OnPodGone(const std::string& uid) {
  Entry* entry = Find(uid);
  if (!entry) return;
  entry->gone = true;
  entry->backoff = {};
  HideDirect(*entry);
  Notify(*entry, Fail(Code::kNotFound, "the pod was deleted"));
  Advance(*entry);
}

void Enroller::OnSynced() {
  std::vector<std::string> missing;
  for (auto& [uid, entry] : entries_)
    if (!entry->shown) missing.push_back(uid);
  for (const auto& uid : missing) OnPodGone(uid);
}

void Enroller::SetObstacle(const std::string& reason) {
  if (obstacle_ == reason) return;
  if (reason.empty())
    LOG_INFO("enrol", "pods can be enrolled again: {} is gone", obstacle_);
  else
    LOG_ERROR("enrol", "no pod is enrolled on this node: {}", reason);
  obstacle_ = reason;
  AdvanceAll();
}

void Enroller::ReleaseAll(const std::string& why) {
  released_ = why;
  for (auto& [uid, entry] : entries_)
    if (!entry->gone) entry->membership = {false, why};
  AdvanceAll();
}

void Enroller::Move(Entry& entry) {
  LOG_INFO("enrol", "{}: has a new network namespace", entry.pod.FullName());
  const bool closed = entry.enforced();
  if (zds_) zds_->Del(entry.pod.uid);
  ReleaseKernelState(entry);
  entry.closed = closed;
}

// Different paths may show one namespace: a file of the runtime's and one of /proc.
bool Enroller::SameNamespace(const Entry& entry, const std::string& path) const {
  auto ns = netns::NetNs::Open(path);
  if (!ns) return false;
  auto cookie = ns->Cookie();
  return cookie && *cookie == entry.cookie;
}

}  // namespace qanat::agent
