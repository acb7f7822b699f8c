// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/sharing.h"

#include <algorithm>
#include <utility>

namespace qanat::ztunnel {

double Sharing::Credit::At(event::TimePoint now, double most, double per_second) const {
  if (at_ == event::TimePoint::min()) return most;
  return std::min(most, left_ + per_second * std::chrono::duration<double>(now - at_).count());
}

void Sharing::Credit::Take(event::TimePoint now, double most, double per_second) {
  left_ = At(now, most, per_second) - 1;
  at_ = now;
}

void Sharing::Credit::GiveBack(double most) { left_ = std::min(most, left_ + 1); }

hbone::PoolKey Sharing::KeyOf(const hbone::PoolKey& own) {
  hbone::PoolKey key = own;
  std::sort(key.destination_identities.begin(), key.destination_identities.end());
  key.source_ip = {};
  key.source_netns = 0;
  key.shared = true;
  return key;
}

const Sharing::Member* Sharing::Find(const hbone::PoolKey& key, const std::string& pod_uid) const {
  if (peers_.empty()) return nullptr;
  const auto peer = peers_.find(key);
  if (peer == peers_.end()) return nullptr;
  const auto member = peer->second.pods.find(pod_uid);
  return member == peer->second.pods.end() ? nullptr : &member->second;
}

Sharing::Member* Sharing::Find(const hbone::PoolKey& key, const std::string& pod_uid) {
  return const_cast<Member*>(std::as_const(*this).Find(key, pod_uid));
}

bool Sharing::May(const hbone::PoolKey& key, const std::string& pod_uid,
                  event::TimePoint now) const {
  const Member* member = Find(key, pod_uid);
  return member != nullptr && now < member->proven_until && now >= member->not_before &&
         member->credit.At(now, kOpen, kOpenPerSecond) >= 1 &&
         peers_.at(key).credit.At(now, kAllOpen, kAllOpenPerSecond) >= 1;
}

bool Sharing::Paused(const hbone::PoolKey& key, const std::string& pod_uid,
                     event::TimePoint now) const {
  const Member* member = Find(key, pod_uid);
  return member != nullptr && now < member->not_before;
}

bool Sharing::Learn(const hbone::PoolKey& key, const std::string& pod_uid, bool takes,
                    event::TimePoint made, event::TimePoint now) {
  if (!takes) {
    if (const auto peer = peers_.find(key); peer != peers_.end()) {
      size_ -= peer->second.pods.size();
      peers_.erase(peer);
    }
    return true;
  }
  const event::TimePoint until = made + kProofHolds;
  if (until <= now) return false;
  if (Member* known = Find(key, pod_uid)) {
    known->proven_until = std::max(known->proven_until, until);
    return true;
  }
  if (size_ >= kMost) Sweep(now);
  if (size_ >= kMost) return true;
  peers_[key].pods[pod_uid].proven_until = until;
  ++size_;
  return true;
}

void Sharing::Disprove(const hbone::PoolKey& key, const std::string& pod_uid) {
  if (Member* member = Find(key, pod_uid)) member->proven_until = {};
}

void Sharing::ForgetPod(const std::string& pod_uid) {
  for (auto it = peers_.begin(); it != peers_.end();) {
    size_ -= it->second.pods.erase(pod_uid);
    it = it->second.pods.empty() ? peers_.erase(it) : std::next(it);
  }
}

void Sharing::Opened(const hbone::PoolKey& key, const std::string& pod_uid, event::TimePoint now) {
  Member* member = Find(key, pod_uid);
  if (member == nullptr) return;
  member->credit.Take(now, kOpen, kOpenPerSecond);
  peers_.at(key).credit.Take(now, kAllOpen, kAllOpenPerSecond);
}

void Sharing::Answered(const hbone::PoolKey& key, const std::string& pod_uid) {
  Member* member = Find(key, pod_uid);
  if (member == nullptr) return;
  member->credit.GiveBack(kOpen);
  peers_.at(key).credit.GiveBack(kAllOpen);
}

void Sharing::Taken(const hbone::PoolKey& key, const std::string& pod_uid) {
  Member* member = Find(key, pod_uid);
  if (member == nullptr) return;
  member->pause = {};
  peers_.at(key).dial_pause = kBetweenDials;
}

void Sharing::Failed(const hbone::PoolKey& key, const std::string& pod_uid, event::TimePoint now) {
  Member* member = Find(key, pod_uid);
  // Of several that were on their way one counts.
  if (member == nullptr || now < member->not_before) return;
  member->pause = std::clamp<event::Duration>(member->pause * 2, kFirstPause, kLongestPause);
  member->not_before = now + member->pause;
}

bool Sharing::MayDial(const hbone::PoolKey& key, event::TimePoint now) {
  const auto found = peers_.find(key);
  if (found == peers_.end() || now < found->second.no_dial_before) return false;
  Peer& peer = found->second;
  peer.no_dial_before = now + peer.dial_pause;
  peer.dial_pause = std::min<event::Duration>(peer.dial_pause * 2, kLongestBetweenDials);
  return true;
}

void Sharing::Sweep(event::TimePoint now) {
  if (now < next_sweep_) return;
  next_sweep_ = now + kBetweenSweeps;
  for (auto it = peers_.begin(); it != peers_.end();) {
    // How long the last pause was is known for as long again.
    size_ -= std::erase_if(it->second.pods, [now](const auto& one) {
      const Member& member = one.second;
      return member.proven_until <= now && member.not_before + member.pause <= now;
    });
    it = it->second.pods.empty() ? peers_.erase(it) : std::next(it);
  }
}

}  // namespace qanat::ztunnel
