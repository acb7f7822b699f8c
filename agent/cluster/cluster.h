// SPDX-License-Identifier: Apache-2.0
// The agent's Kubernetes side in one place: the API client, the pods, what is published, the CNI
// plugin on the node, and the end. Lives on the agent's loop. Owned by App.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "agent/cluster/own_daemonset.h"
#include "agent/cni/credentials.h"
#include "agent/cni/install.h"
#include "agent/enrol/enroller.h"
#include "agent/pods/kube_source.h"
#include "agent/publish/publisher.h"
#include "common/kube/client.h"

namespace qanat::agent {

struct ClusterOptions {
  std::string kubeconfig;  // empty: in-cluster
  std::string node_name;
  std::string ns = "qanat-system";
  std::string daemonset;  // empty: the node is never given back by itself
  std::string lib_dir = "/var/lib/qanat";
  std::string run_dir = "/var/run/qanat";
  std::string zds_socket, hold_socket, cni_socket, status_dir, state_dir;
  std::vector<std::string> excluded_namespaces;
  cni::InstallOptions install;  // conf_dir empty: no plugin is installed
};

class Cluster {
 public:
  static Result<std::unique_ptr<Cluster>> Create(event::EventLoop& loop, ClusterOptions options);

  PodSource& source() { return *source_; }
  // For /cmdadd: what the runtime says of a pod.
  void OnCniAdd(const CniPod& pod) { source_->OnCniAdd(pod); }
  // The enroller is told of obstacles and observed. Once, before its first pod.
  void Observe(Enroller& enroller);
  // The plugin's entry goes in when the CNI socket answers.
  Status InstallPlugin();

  // "" when new pods can be enrolled, else what is missing.
  std::string NotReady() const;
  const Publisher& publisher() const { return *publisher_; }
  const cni::Installer* installer() const { return installer_.get(); }
  std::string api_error() const { return source_->last_error(); }

  // At SIGTERM. When the DaemonSet is being deleted: takes the plugin away, gives every pod plain
  // networking back and calls `done(true)`; else `done(false)` at once.
  void Leave(Enroller& enroller, std::function<void(bool released)> done);
  // After that, with no pod left: files and folders of ours on the node.
  void RemoveTraces();

 private:
  Cluster(event::EventLoop& loop, ClusterOptions options, kube::ClientConfig config);
  void Release(Enroller& enroller, std::function<void(bool)> done);

  event::EventLoop& loop_;
  ClusterOptions options_;
  std::unique_ptr<kube::Client> client_;
  std::unique_ptr<KubeSource> source_;
  std::unique_ptr<Publisher> publisher_;
  std::unique_ptr<cni::Installer> installer_;
  std::unique_ptr<cni::Credentials> credentials_;
  std::unique_ptr<OwnDaemonSet> daemonset_;
  Enroller* enroller_ = nullptr;
  event::Timer release_;
  event::TimePoint release_until_{};
  std::function<void(bool)> released_;
};

}  // namespace qanat::agent
