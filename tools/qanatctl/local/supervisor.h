// SPDX-License-Identifier: Apache-2.0
// The one process behind `qanatctl local up`: API server, scheduler, kubelet, kube-proxy and DNS of
// a mesh on one machine, and the keeper of the mesh's own programs. One thread, one loop. It can be
// killed at any time: everything it makes is named after the mesh, and `local down` removes it
// without asking it.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/base/fd.h"
#include "common/event/event_loop.h"
#include "tools/qanatctl/local/mesh_program.h"
#include "tools/qanatctl/local/objects.h"
#include "tools/qanatctl/local/pod.h"
#include "tools/qanatctl/local/proxy_rules.h"

namespace qanat::local {

struct SupervisorOptions {
  Names names;
  std::string folder;  // absolute
  std::string bin_dir;
  int nodes = 2;
  uint32_t mtu = 1500;
  bool mesh = true;
};

class Supervisor {
 public:
  Supervisor(event::EventLoop& loop, SupervisorOptions options);
  ~Supervisor();
  Status Start();

 private:
  struct NodeRuntime {
    NodePlan plan;
    std::unique_ptr<MeshProgram> agent;
    std::unique_ptr<MeshProgram> ztunnel;
    std::unique_ptr<MeshProgram> dns;
    std::unique_ptr<Process> nft;
    std::string nft_error;
    std::string rules;  // last handed to nft
    bool rules_pending = false;
    std::string ztunnel_uid, agent_uid;
  };

  Status MakeDirectories();
  Status MakeNodes();
  Status WriteNodeTokens();
  void StartMeshPrograms();
  void Watch(const std::string& path);
  void OnFiles();
  void Reload();
  void ReadStatusFiles();
  void Soon();
  void Round();  // reconcile, then publish
  void ReconcilePods();
  void Publish();
  void PublishFiles();
  void PublishServices();
  void ApplyRules(NodeRuntime& node);
  std::string MeshState() const;
  std::vector<std::string> Waiting() const;
  bool PodsMayStart(const std::string& node) const;
  std::vector<net::IpAddress> ServiceIps(const ServiceSpec& service) const;
  NodeRuntime* FindNode(const std::string& name);
  void WriteIfChanged(const std::string& path, const std::string& content);

  event::EventLoop& loop_;
  SupervisorOptions options_;
  Network network_;
  PodAddresses pod_addresses_;
  ServiceAddresses service_addresses_;
  ObjectFolder folder_;
  Plan plan_;
  std::vector<FileProblem> service_problems_;
  std::optional<TokenIssuer> issuer_;
  std::string cgroup_root_;
  std::unique_ptr<PodWorld> world_;
  std::unique_ptr<MeshProgram> control_plane_;
  std::map<std::string, std::unique_ptr<NodeRuntime>> nodes_;
  std::map<std::string, std::unique_ptr<Pod>> pods_;
  std::map<std::string, std::string> written_;  // path -> content
  std::set<std::string> overlay_files_;
  bool node_programs_started_ = false;
  event::TimePoint started_{};
  Fd inotify_;
  std::set<std::string> watched_;
  std::unique_ptr<event::IoWatch> inotify_watch_;
  event::Timer reload_timer_;
  event::Timer status_timer_;
  event::Timer round_timer_;
  event::Timer token_timer_;
};

// The body of the hidden `qanatctl local supervise`: runs until SIGTERM.
int RunSupervisor(const SupervisorOptions& options);

}  // namespace qanat::local
