// SPDX-License-Identifier: Apache-2.0
// A running mesh as commands see it: the supervisor's mesh.json, and how to reach the admin ports
// inside the nodes' and pods' namespaces.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "tools/qanatctl/local/names.h"

namespace qanat::ctl {

using Json = nlohmann::json;

struct ContainerRef {
  std::string name;
  int pid = 0;
  bool init = false;
  std::string log;
};

struct PodRef {
  std::string ns;
  std::string name;
  std::string uid;
  std::string node;
  std::string service_account;
  std::string workload;  // "Deployment/frontend"
  std::string gateway;
  std::string netns;
  std::string cgroup;
  std::vector<std::string> ips;
  std::vector<ContainerRef> containers;
  bool ready = false;
  bool mesh = false;
  std::string redirection;
  std::string reason;
  std::string phase;
  int restarts = 0;
  bool terminating = false;
};

struct NodeRef {
  std::string name;
  std::string netns;
};

struct ServiceRef {
  std::string ns;
  std::string name;
  std::vector<std::string> cluster_ips;
};

class MeshView {
 public:
  // Fails with the remedy when no such mesh is up.
  static Result<MeshView> Load(const std::string& mesh);

  const Json& raw() const { return *json_; }
  bool supervisor_alive() const { return supervisor_alive_; }
  const std::vector<NodeRef>& nodes() const { return nodes_; }
  const std::vector<PodRef>& pods() const { return pods_; }
  const std::vector<ServiceRef>& services() const { return services_; }
  const std::string& fabric_netns() const { return fabric_netns_; }

  // NS/POD, NS/deploy/NAME, deploy/NAME[.NS], NAME.NS, POD, or a unique beginning of a pod's name.
  Result<const PodRef*> FindPod(const std::string& text) const;
  Result<std::vector<NodeRef>> SelectNodes(const std::string& wanted) const;

  // GET (or POST) of an admin endpoint at 127.0.0.1:port inside a namespace.
  static Result<std::string> Fetch(const std::string& netns, uint16_t port, const std::string& path,
                                   const std::string& method = "GET");

 private:
  std::shared_ptr<const Json> json_;
  bool supervisor_alive_ = false;
  std::vector<NodeRef> nodes_;
  std::vector<PodRef> pods_;
  std::vector<ServiceRef> services_;
  std::string fabric_netns_;
};

// The wanted pod among candidates; pure, see MeshView::FindPod.
Result<const PodRef*> ResolvePod(const std::vector<PodRef>& pods, const std::string& text);

}  // namespace qanat::ctl
