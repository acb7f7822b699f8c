// SPDX-License-Identifier: Apache-2.0
// Says in the cluster what the enroller knows: the annotation ambient.istio.io/redirection on each
// pod (the control plane tells the mesh to use HBONE by it) and Events with the reason when a pod
// waits or is refused. Rate-limited; repeats nothing; a write that others undo is repeated slowly.
// Lives on the agent's loop; the client outlives it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "agent/enrol/enroller.h"
#include "common/event/event_loop.h"
#include "common/kube/client.h"

namespace qanat::agent {

struct PodEvent {
  std::string type, reason, message;  // "Warning", "QanatPending", ...
};

struct PublisherOptions {
  std::string node_name;
  event::Duration settle = std::chrono::seconds(1);  // "pending" that passes at once is not told
  event::Duration event_after = std::chrono::seconds(3);
  event::Duration retry = std::chrono::seconds(2);
  event::Duration repeat = std::chrono::seconds(10);  // the same value once more
  size_t in_flight = 16;
  unsigned events_burst = 20;
  event::Duration event_every = std::chrono::milliseconds(200);
};

class Publisher {
 public:
  Publisher(event::EventLoop& loop, kube::Client& client, PublisherOptions options);
  ~Publisher();

  void OnPod(const PodView& view);  // the enroller's observer
  // Calls `done` when nothing is left to be written, or after `limit`. For the end of the agent.
  void Flush(event::Duration limit, std::function<void()> done);

  struct Stats {
    uint64_t patches = 0, patch_errors = 0, events = 0, event_errors = 0, events_dropped = 0;
  };
  const Stats& stats() const { return stats_; }
  const std::string& problem() const { return problem_; }

 private:
  struct Told;
  void Pump();
  void PumpSoon(event::Duration delay);
  void Patch(const std::string& uid, Told& told);
  void Announce(const std::string& uid, Told& told, const PodEvent& event);
  bool TakeEventToken();
  bool Settled() const;

  event::EventLoop& loop_;
  kube::Client& client_;
  PublisherOptions options_;
  std::map<std::string, std::unique_ptr<Told>> pods_;  // by uid
  size_t running_ = 0;
  double event_tokens_;
  event::TimePoint tokens_at_;
  std::string problem_;
  Stats stats_;
  event::Timer pump_, flush_;
  std::function<void()> flushed_;
};

// The bodies, pure.
std::string RedirectionPatch(const std::string& uid, const std::string& value);  // "" removes it
std::string EventBody(const PodView& pod, const PodEvent& event, const std::string& node,
                      const std::string& timestamp, const std::string& name);
// What is worth an Event in this state; reason "" when nothing is.
PodEvent EventOf(const PodView& pod);
// The traffic of an enrolled pod that is not in the mesh, of kinds not in `told`; reason "" when
// there is none.
PodEvent UncapturedOf(const PodView& pod, const std::set<std::string>& told);

}  // namespace qanat::agent
