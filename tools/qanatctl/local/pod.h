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
#include "tools/qanatctl/local/ipam.h"
#include "tools/qanatctl/local/network.h"
#include "tools/qanatctl/local/overlay.h"
#include "tools/qanatctl/local/plan.h"
#include "tools/qanatctl/local/probe.h"
#include "tools/qanatctl/local/program.h"
#include "tools/qanatctl/local/token.h"

namespace qanat::local {

class Pod;

// What a pod needs of the world; outlives all pods.
struct PodWorld {
  event::EventLoop& loop;
  const Names& names;
  Network& network;
  PodAddresses& addresses;
  std::string cgroup_root;  // <cgroup2>/qanat-<mesh>
  std::string bin_dir;
  bool mesh = true;
  bool json_logs = false;
  const TokenIssuer* issuer = nullptr;  // with `mesh`
  const Plan* plan = nullptr;           // namespaces, ConfigMaps, Secrets as they are now
  std::function<void(Pod&)> changed;    // publish soon
  std::function<void()> publish_now;    // before the agent is asked to enrol
};

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
  std::string netns_path() const;
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
  // How to run a command as that container would; the container must be running.
  static SpawnSpec InsideSpec(pid_t pid, const std::vector<std::string>& argv,
                              const std::vector<std::string>& env, const std::string& cgroup);

 private:
  struct Container;
  Status MakeSandbox();
  Status WriteTokens();
  Status WriteVolumes();
  void Enrol();
  void StartContainers();
  void StartProbes(Container& container);
  void OnContainer(Container& container);
  void CheckInit();
  void Evaluate();
  void Fail(const std::string& why, std::chrono::milliseconds retry);
  void StopContainers();
  void Cleanup();
  Result<SpawnSpec> ContainerSpawn(Container& container);
  Result<SpawnSpec> WaypointSpawn();
  std::string Dir() const;
  std::string Cgroup() const;

  PodWorld& world_;
  PodPlan plan_;
  NodePlan node_;
  State state_ = State::kCreating;
  PodStatus status_;
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
