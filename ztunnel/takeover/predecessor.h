// SPDX-License-Identifier: Apache-2.0
// The new process's end of a take-over: gets the listening sockets of all pods from the process
// before it, and, when the pods are up here, the live connections. The old one goes on accepting on
// each listener until its pod is up here. Main thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/event/event_loop.h"
#include "common/takeover/session.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/takeover/stock.h"

namespace qanat::ztunnel {

// The state of a pod's listeners on the wire: the roles of the descriptors, in their order. Fails
// on what another version may have meant.
takeover::Parcel EncodeListeners(Listeners listeners);
Result<Listeners> DecodeListeners(takeover::Parcel parcel);
std::string EncodeAbout(const std::string& uid);
Result<std::string> DecodeAbout(const std::string& about);  // the pod's uid

class Predecessor final : public takeover::Sink {
 public:
  struct Events {
    // Once: everything that will come is in the stock (or nothing will), pods can be started.
    std::function<void()> on_arrived;
    // Once, later or at once: this process is now who the next one meets.
    std::function<void()> on_over;
  };
  Predecessor(event::EventLoop& loop, std::string path, ListenerStock& stock,
              const Environment& environment, std::vector<std::unique_ptr<Worker>>& workers,
              Events events);

  // Calls on_arrived at once where there is nobody.
  void Start();
  const takeover::SessionCounts& counts() const { return counts_; }

 private:
  void Import(takeover::Sort sort, takeover::ItemId item, const std::string& about,
              takeover::Parcel parcel, std::function<void(Status)> done) override;
  void Run(takeover::ItemId item) override;
  void Drop(takeover::ItemId item) override;
  void AskForConnections();
  void Ask();
  Worker& WorkerOf(takeover::ItemId item) { return *workers_[item % workers_.size()]; }
  void Arrived();
  void Over();

  event::EventLoop& loop_;
  const std::string path_;
  ListenerStock& stock_;
  const Environment& environment_;
  std::vector<std::unique_ptr<Worker>>& workers_;
  Events events_;
  int rounds_ = 0;
  takeover::SessionCounts before_;  // the present round
  event::Timer pause_;              // before it
  takeover::SessionCounts counts_;
  event::Timer patience_;  // with the listeners, then with the connections
  std::unique_ptr<takeover::TakingSession> session_;  // stays: it tells the old one that we live
};

}  // namespace qanat::ztunnel
