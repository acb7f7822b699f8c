// SPDX-License-Identifier: Apache-2.0
// Listening sockets that were there before this process: from the process before it, or kept by a
// supervisor or the node agent. They wait here until the node agent announces their pod. Main
// thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/takeover/supervisor.h"
#include "ztunnel/listeners.h"

namespace qanat::ztunnel {

class ListenerStock {
 public:
  using Done = std::function<void(Status)>;

  // `done` once: when the pod has them (Settle), or when nobody wants them.
  void Add(const std::string& uid, Listeners listeners, Done done = {});
  // Those of the supervisor, "qanat-<uid>-<role>"; others are closed with a warning.
  void AddPassed(const std::vector<takeover::PassedFd>& passed);
  void AddKept(std::vector<takeover::Supervisor::Named> kept,
               const std::function<bool(const std::string& uid)>& wanted);
  Listeners Take(const std::string& uid);
  void Settle(const std::string& uid, const Status& status);
  // Nobody asks any more: what is left is closed. Returns whose it was.
  std::vector<std::string> Clear(const std::string& why);
  bool empty() const { return pods_.empty(); }

 private:
  struct Entry {
    Listeners listeners;
    std::vector<Done> done;
  };
  void AddNamed(std::string_view name, Fd fd,
                const std::function<bool(const std::string& uid)>& wanted);
  std::map<std::string, Entry> pods_;  // by uid
};

// Lets who is at NOTIFY_SOCKET (a supervisor, or the node agent) keep the listeners of the pods, so
// that a new process has them after this one was killed. Main thread.
class ListenerKeeper {
 public:
  // `again`: it was away, and all that is to be kept is to be said once more.
  ListenerKeeper(event::EventLoop& loop, const std::string& notify_socket,
                 std::function<void()> again, event::Duration retry = std::chrono::seconds(5));

  bool present() const { return supervisor_.present(); }
  void Keep(const std::string& uid, const std::vector<Listeners>& sets);
  void Forget(const std::string& uid);
  void Ready();

  // The node agent is there, or there again: asks what it has of a process before this one.
  void Connected();
  // Takes its answer, once. It comes at once (who asks us for pods is awake); a second is the most
  // that the main thread waits.
  void Collect(ListenerStock& stock, const std::function<bool(const std::string& uid)>& wanted);

  static std::string Name(const std::string& uid, Role role);

 private:
  void Say(const Status& status);
  void TryAgain();
  takeover::Supervisor supervisor_;
  std::function<void()> again_;
  const event::Duration retry_every_;  // each may cost the main thread a moment
  event::Timer retry_;
  bool ready_ = false;
};

}  // namespace qanat::ztunnel
