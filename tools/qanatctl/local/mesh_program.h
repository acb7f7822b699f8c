// SPDX-License-Identifier: Apache-2.0
// One of the mesh's own programs under supervision (control plane, agent, node proxy, DNS server):
// how it is started, and a readiness check that is repeated while it runs.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "common/event/event_loop.h"
#include "common/netns/netns.h"
#include "common/takeover/holder.h"
#include "tools/qanatctl/http_call.h"
#include "tools/qanatctl/local/names.h"
#include "tools/qanatctl/local/plan.h"
#include "tools/qanatctl/local/program.h"

namespace qanat::local {

struct ReadyCheck {
  net::SocketAddress address;
  std::string path;
};

struct ProgramConfig {
  std::string name;  // "agent-node1": also the log's and the cgroup's name
  std::string node;  // "" for the fabric
  SpawnSpec spec;
  std::optional<ReadyCheck> check;  // none: ready while it runs
  std::string hold_socket;          // "" or where it gives descriptors that its next start gets
};

class MeshProgram {
 public:
  MeshProgram(event::EventLoop& loop, ProgramConfig config, netns::NetNs netns,
              std::function<void()> on_change);
  void Start();
  Program& program() { return program_; }
  const Program& program() const { return program_; }
  const ProgramConfig& config() const { return config_; }
  bool ready() const { return ready_ && program_.pid() != 0; }
  const std::string& why() const { return why_; }  // when not ready

 private:
  Status MayHold(const ucred& who) const;
  void OnChange();
  void Check();
  void Set(bool ready, std::string why);

  event::EventLoop& loop_;
  ProgramConfig config_;
  netns::NetNs netns_;
  std::function<void()> on_change_;
  std::unique_ptr<takeover::Holder> holder_;
  Program program_;
  event::Timer timer_;
  std::unique_ptr<ctl::HttpCall> call_;
  pid_t checked_pid_ = 0;
  bool ready_ = false;
  std::string why_ = "not started";
};

// Pure apart from reading the environment (sanitizer and log settings are handed on).
struct ProgramPaths {
  const Names& names;
  std::string bin_dir;
  std::string cgroup_root;
  std::string folder;
};
ProgramConfig ControlPlaneConfig(const ProgramPaths& paths);
ProgramConfig AgentConfig(const ProgramPaths& paths, const NodePlan& node);
ProgramConfig ZtunnelConfig(const ProgramPaths& paths, const NodePlan& node);
ProgramConfig DnsConfig(const ProgramPaths& paths, const NodePlan& node);

}  // namespace qanat::local
