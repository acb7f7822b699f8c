// SPDX-License-Identifier: Apache-2.0
// Keeps the listening sockets of our pods for the proxy: when it is killed, who connects meanwhile
// waits in a queue that the next proxy takes up. The proxy gives them at a socket of ours by
// systemd's protocol and asks for them when it has connected over ZDS (common/takeover/holder.h).
// A proxy that does not ask for it keeps nothing here, and what another one gave before it is given
// up: a queue that nobody will serve is worse than a refusal. On the agent's loop; owned by App.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "agent/zds/proxy_user.h"
#include "common/event/event_loop.h"
#include "common/takeover/holder.h"
#include "common/takeover/supervisor.h"

namespace qanat::agent {

struct HoldWorld {
  // The network namespace (SO_NETNS_COOKIE) of a pod that is in the mesh and lives; 0: no such pod.
  std::function<uint64_t(const std::string& uid)> cookie_of;
  // Of the proxies that are connected; 0: one whose process cannot be seen.
  std::function<std::set<pid_t>()> proxies;
};

struct HoldOptions {
  zds::ProxyUser user;        // may talk to us beside root, as at the ZDS socket
  std::string notify_socket;  // of who keeps them for us in turn; "": nobody
  // After that long without a proxy they are given up: connections are refused instead of waiting.
  event::Duration without_proxy = std::chrono::seconds(60);
  // After that long with proxies, of which none has taken up what another one gave: nobody reads
  // it. (A proxy that could not start a pod tries again after five seconds.)
  event::Duration unclaimed = std::chrono::seconds(15);
  event::Duration look_every = std::chrono::seconds(5);
};

class ListenerHold {
 public:
  ListenerHold(event::EventLoop& loop, HoldWorld world, HoldOptions options);

  Status Listen(const std::string& path);
  // From who kept them across our own death. Those of pods that we do not know are closed.
  void Adopt(const std::vector<takeover::PassedFd>& passed);
  void Forget(const std::string& uid);  // the pod is gone, or leaves the mesh

  size_t size() const { return holder_.size(); }
  takeover::Holder& holder() { return holder_; }  // for tests
  const takeover::Holder::Counts& counts() const { return holder_.counts(); }

 private:
  Status NameFits(std::string_view name) const;
  Status Fits(std::string_view name, int fd) const;
  void Look();
  void GiveUpUnclaimed(const std::set<pid_t>& proxies, event::TimePoint now);
  void TellAbove();

  HoldWorld world_;
  HoldOptions options_;
  takeover::Supervisor above_;
  takeover::Holder holder_;
  event::TimePoint last_proxy_;
  std::map<pid_t, event::TimePoint> strangers_;  // givers that were not connected, since when
  event::Timer look_;
};

// The pod in a name, "qanat-UID-ROLE"; "" when it is none.
std::string UidOfHeld(std::string_view name);

}  // namespace qanat::agent
