// SPDX-License-Identifier: Apache-2.0
// One pod, as a kubelet would run it: sandbox (network, volumes, tokens), enrolment by the agent,
// init containers, containers with restarts and probes, orderly end. Lives on the supervisor's
// loop; never blocks longer than a few system calls.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/netns/netns.h"
#include "tools/qanatctl/http_call.h"
#include "tools/qanatctl/local/container.h"
#include "tools/qanatctl/local/overlay.h"
#include "tools/qanatctl/local/pod_world.h"

namespace qanat::local {

class Pod {
 public:
  enum class State : uint8_t { kCreating, kEnrolling, kStarting, kRunning, kEnding, kGone };

  Pod(PodWorld& world, PodPlan plan, const NodePlan& node);
  ~Pod();

  void Start();  // (again)
  void End();    // orderly; state() becomes kGone
  void UpdateLabels(const StringMap& labels, const StringMap& annotations);
  void SetRedirection(const std::string& redirection, const std::string& reason);
  void RefreshTokens();

  const PodPlan& plan() const { return plan_; }
  State state() const { return state_; }
  bool ready() const { return ready_; }
  bool wants_mesh() const;
  bool settled() const;  // ready (or done), and enrolled where labelled
  const PodStatus& status() const { return status_; }
  const std::string& uid() const { return status_.facts.uid; }
  const std::string& problem() const { return problem_; }
  const std::string& redirection() const { return status_.redirection; }
  const std::string& redirection_reason() const { return redirection_reason_; }
  std::vector<net::IpAddress> ips() const;
  const std::string& netns_path() const { return places_.netns; }
  bool has_network() const { return network_.has_value(); }
  int restarts() const;

  struct ContainerView {
    std::string name;
    const Program* program;
    bool init;
    bool ready;
    std::string log;
  };
  std::vector<ContainerView> containers() const;

 private:
  void AddContainer(const ContainerSpec& spec, bool init);
  Status MakeSandbox();
  void Enrol();
  void StartContainers();
  void OnContainer(Container& container);
  void CheckInit();
  void Evaluate();
  void Fail(const std::string& why, std::chrono::milliseconds retry);
  void StopContainers();
  void Cleanup();

  PodWorld& world_;
  PodPlan plan_;
  NodePlan node_;
  State state_ = State::kCreating;
  PodStatus status_;
  PodPlaces places_;
  std::optional<PodNetwork> network_;
  std::optional<netns::NetNs> node_netns_;
  std::optional<int> host_;
  std::vector<std::unique_ptr<Container>> containers_;
  std::unique_ptr<ctl::HttpCall> enrol_call_;
  event::Timer retry_;
  event::Timer end_timer_;
  event::Timer stop_timer_;
  std::chrono::milliseconds enrol_delay_{200};
  bool ready_ = false;
  std::string problem_;
  std::string redirection_reason_;
};

}  // namespace qanat::local
