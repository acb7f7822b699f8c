// SPDX-License-Identifier: Apache-2.0
// One probe of one container, run from the node's namespace as a kubelet does. On the supervisor's
// loop.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/event/event_loop.h"
#include "common/netns/netns.h"
#include "tools/qanatctl/http_call.h"
#include "tools/qanatctl/local/process.h"
#include "tools/qanatctl/local/spec.h"

namespace qanat::local {

struct ProbeTarget {
  const netns::NetNs* node = nullptr;
  net::IpAddress pod_ip;
  // For exec probes: how to start a command inside the running container.
  std::function<SpawnSpec(const std::vector<std::string>&)> inside;
};

class Probe {
 public:
  // Called whenever the outcome flips, with the reason of a failure.
  using OnChange = std::function<void(bool ok, const std::string& reason)>;
  Probe(event::EventLoop& loop, ProbeSpec spec, ProbeTarget target, OnChange on_change);
  const std::string& last_failure() const { return last_failure_; }

 private:
  void Run();
  void Result(bool ok, std::string reason);
  void Next();

  event::EventLoop& loop_;
  ProbeSpec spec_;
  ProbeTarget target_;
  OnChange on_change_;
  event::Timer timer_;
  std::unique_ptr<ctl::HttpCall> call_;
  std::unique_ptr<Process> process_;
  std::unique_ptr<event::Timer> kill_timer_;
  int successes_ = 0;
  int failures_ = 0;
  int started_ = 0;
  bool known_ = false;
  bool ok_ = false;
  std::string last_failure_;
};

}  // namespace qanat::local
