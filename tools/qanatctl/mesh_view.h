// SPDX-License-Identifier: Apache-2.0
// A running mesh as commands see it, on this machine (the supervisor's mesh.json) or in a cluster
// (kube/cluster_view.h), and how to reach the admin ports of its parts.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "tools/qanatctl/http_call.h"
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
  std::string netns;  // where its ports are: a namespace's path, or what the view's Reach knows
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
  // Carries one request to a port on loopback at a place (a `netns` of above).
  using Reach = std::function<Result<HttpResponse>(const std::string& where, uint16_t port,
                                                   const HttpRequest& request)>;
  struct Parts;

  // The mesh on this machine; fails with the remedy when no such mesh is up.
  static Result<MeshView> Load(const std::string& mesh);
  static MeshView Make(Parts parts);

  const std::string& name() const { return name_; }
  const Json& raw() const { return *json_; }
  bool supervisor_alive() const { return supervisor_alive_; }
  const std::vector<NodeRef>& nodes() const { return nodes_; }
  const std::vector<PodRef>& pods() const { return pods_; }
  const std::vector<ServiceRef>& services() const { return services_; }
  // Where control planes are, those that should be asked first in front.
  const std::vector<std::string>& control_planes() const { return control_planes_; }
  // Lines "IP NAME": what names of services resolve to on this node.
  std::string Hosts(const std::string& node) const;

  // NS/POD, NS/deploy/NAME, deploy/NAME[.NS], NAME.NS, POD, or a unique beginning of a pod's name.
  Result<const PodRef*> FindPod(const std::string& text) const;
  Result<std::vector<NodeRef>> SelectNodes(const std::string& wanted) const;

  // GET (or POST) of an admin endpoint at 127.0.0.1:port at one of the places.
  Result<std::string> Fetch(const std::string& where, uint16_t port, const std::string& path,
                            const std::string& method = "GET") const;

 private:
  std::shared_ptr<const Json> json_;
  bool supervisor_alive_ = false;
  std::vector<NodeRef> nodes_;
  std::vector<PodRef> pods_;
  std::vector<ServiceRef> services_;
  std::vector<std::string> control_planes_;
  std::string name_;
  std::string hosts_;
  bool local_ = false;
  Reach reach_;
};

// What a view of another kind is made of.
struct MeshView::Parts {
  std::string name;
  std::shared_ptr<const Json> raw;
  std::vector<NodeRef> nodes;
  std::vector<PodRef> pods;
  std::vector<ServiceRef> services;
  std::vector<std::string> control_planes;
  std::string hosts;
  Reach reach;
};

// The wanted pod among candidates; pure, see MeshView::FindPod.
Result<const PodRef*> ResolvePod(const std::vector<PodRef>& pods, const std::string& text);

}  // namespace qanat::ctl
