// SPDX-License-Identifier: Apache-2.0
// Wires the agent: hooks, pod source, enroller, ZDS server, CNI and admin sockets. The one page
// that knows all parts.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/mesh/mesh_options.h"
#include "agent/zds/proxy_user.h"
#include "bpf/user/features.h"
#include "common/base/result.h"
#include "common/event/event_loop.h"

namespace qanat::agent {

struct Config {
  std::string node_name = "node";
  std::string pod_source;  // folder:DIR or kubernetes
  std::string status_dir;
  std::string state_dir;  // default: beside status_dir, agent-state
  std::string zds_socket;
  zds::ProxyUser proxy;     // who may connect to it beside root
  std::string hold_socket;  // where proxies give their listeners to be kept; empty: none
  std::string cni_socket;
  std::string bpf_dir = "/sys/fs/bpf/qanat/node";
  std::string cgroup_root;                // empty: from mountinfo
  std::vector<std::string> pods_cgroups;  // empty: from our own cgroup, see app.cc
  std::string admin = "127.0.0.1:15030";  // empty: none
  // kubernetes only:
  std::string kubeconfig;  // empty: in-cluster
  std::string ns = "qanat-system";
  // Besides our own, whose pods never are: what the cluster itself needs starts without us.
  std::vector<std::string> exclude_namespaces = {"kube-system"};
  std::string daemonset = "qanat-agent";
  std::string lib_dir = "/var/lib/qanat";
  std::string cni_conf_dir = "/etc/cni/net.d";
  std::string cni_bin_dir = "/opt/cni/bin";
  bool cni_own_list = true;   // our plugin in a list of our own, not in the network plugin's
  std::string cni_plugin;     // our plugin's binary, to be copied to the node; empty: no plugin
  std::string probe_service;  // IP:port of a Service; empty: KUBERNETES_SERVICE_HOST and _PORT
  // What the proxy is told about the pods' DNS.
  std::vector<std::string> cluster_dns;  // empty: the proxy knows them, from its own resolv.conf
  std::string cluster_domain = "cluster.local";
  std::string resolv_conf = "/etc/resolv.conf";  // the node's
  MeshOptions mesh;                              // from the environment
  std::string same_node = "direct";              // of pods that do not say, nor do their namespaces
  bool telemetry = true;                         // records of closed connections
  bool dns_capture = true;  // of pods without the annotation, where the proxy listens for it
  unsigned reconcile_ms = 500;
  unsigned reprove_ms = 10000;
  unsigned cni_timeout_ms = 30000;
  unsigned drain_ms = 3600000;
};

// What is needed once and not allowed later (sandbox/sandbox.h): mounts, other kinds of namespaces,
// and a network namespace of its own to try in what this kernel has, which is returned.
Result<std::vector<bpf::Feature>> PrepareProcess(const Config& config);

class App {
 public:
  // Everything is up when this returns: hooks attached, old pods taken over, sockets listening.
  // `features`: of PrepareProcess().
  static Result<std::unique_ptr<App>> Build(event::EventLoop& loop, const Config& config,
                                            std::vector<bpf::Feature> features);
  ~App();

  // At SIGTERM. Everything stays enforced, but in a cluster whose DaemonSet is being deleted the
  // node is given back as it was. `done` is called once, when the process may end.
  void Leave(std::function<void()> done);

 private:
  struct Parts;
  static Status StartDirect(event::EventLoop& loop, Parts& parts);
  static Status StartTelemetry(event::EventLoop& loop, Parts& parts);
  static Status StartHold(event::EventLoop& loop, Parts& parts);
  explicit App(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

// Plain networking for every pod of this instance, then its pins and state are removed.
Status Cleanup(const Config& config);

}  // namespace qanat::agent
