// SPDX-License-Identifier: Apache-2.0
// When a pod's streams may go over tunnels that all pods of its identity share: the destination's
// proxy announced to take sources, and this very pod has reached it lately. Shared tunnels start in
// the proxy's own network namespace, which no NetworkPolicy for the pod watches, so what proves
// that a pod may go there is a tunnel of its own, and only from the time that it was made: one that
// was made before a policy goes on as it was. What one pod does to a shared tunnel is limited: it
// must not end its siblings' streams. Pure but for the clock that it is given; one per worker.
#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "common/event/event_loop.h"
#include "common/hbone/pool.h"

namespace qanat::ztunnel {

class Sharing {
 public:
  static constexpr std::chrono::minutes kProofHolds{5};  // from when the pod's tunnel was made
  // Without sharing after a failure of the pod's; doubles with each until one is taken.
  static constexpr std::chrono::minutes kFirstPause{1}, kLongestPause{60};
  // Between two shared tunnels that are made; doubles as long as nothing goes over them.
  static constexpr std::chrono::seconds kBetweenDials{10}, kLongestBetweenDials{300};
  static constexpr size_t kMost = 8192;  // pairs of a destination and a pod
  // Streams without an answer, and what is left of them that had none: a pod's, and all pods' to
  // one destination. Receivers end a tunnel for more than 500 and 250 a second of those that are
  // reset (hbone::Abuse::kRapidReset).
  static constexpr double kOpen = 64, kOpenPerSecond = 16;
  static constexpr double kAllOpen = 320, kAllOpenPerSecond = 160;
  static constexpr std::chrono::seconds kBetweenSweeps{60};

  // The key of the shared tunnels beside a pod's own. All others take such a key.
  static hbone::PoolKey KeyOf(const hbone::PoolKey& own);

  bool May(const hbone::PoolKey& key, const std::string& pod_uid, event::TimePoint now) const;
  // What the peer announced on a tunnel of the pod's own that was made at `made`, and on which a
  // stream has just been taken. False: it is too old to prove anything, another would.
  bool Learn(const hbone::PoolKey& key, const std::string& pod_uid, bool takes,
             event::TimePoint made, event::TimePoint now);
  // The pod cannot get there any more, or is gone.
  void Disprove(const hbone::PoolKey& key, const std::string& pod_uid);
  void ForgetPod(const std::string& pod_uid);
  // Whether the pod shares nothing with that peer for now, after a failure.
  bool Paused(const hbone::PoolKey& key, const std::string& pod_uid, event::TimePoint now) const;

  // A shared stream was asked for; it was answered; its source was believed; or it was refused for
  // its source, its tunnel broke, or no answer came.
  void Opened(const hbone::PoolKey& key, const std::string& pod_uid, event::TimePoint now);
  void Answered(const hbone::PoolKey& key, const std::string& pod_uid);
  void Taken(const hbone::PoolKey& key, const std::string& pod_uid);
  void Failed(const hbone::PoolKey& key, const std::string& pod_uid, event::TimePoint now);

  // Whether it is time to make a shared tunnel; if so, the next time is later.
  bool MayDial(const hbone::PoolKey& key, event::TimePoint now);
  void Sweep(event::TimePoint now);  // forgets what no longer holds, once in a while
  size_t size() const { return size_; }

 private:
  class Credit {
   public:
    double At(event::TimePoint now, double most, double per_second) const;
    void Take(event::TimePoint now, double most, double per_second);
    void GiveBack(double most);

   private:
    double left_ = 0;
    event::TimePoint at_ = event::TimePoint::min();  // of left_; min: all of it
  };
  struct Member {
    event::TimePoint proven_until{}, not_before{};
    event::Duration pause{0};
    Credit credit;
  };
  struct Peer {
    std::map<std::string, Member> pods;  // by uid
    event::TimePoint no_dial_before{};
    event::Duration dial_pause = kBetweenDials;
    Credit credit;
  };
  const Member* Find(const hbone::PoolKey& key, const std::string& pod_uid) const;
  Member* Find(const hbone::PoolKey& key, const std::string& pod_uid);

  std::map<hbone::PoolKey, Peer> peers_;  // those that take sources
  size_t size_ = 0;                       // of all their `pods`
  event::TimePoint next_sweep_{};
};

}  // namespace qanat::ztunnel
