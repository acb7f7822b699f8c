// SPDX-License-Identifier: Apache-2.0
// Wires the agent: hooks, pod source, enroller, ZDS server, CNI and admin sockets. The one page
// that knows all parts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/event/event_loop.h"

namespace qanat::agent {

struct Config {
  std::string node_name = "node";
  std::string pod_source;  // folder:DIR
  std::string status_dir;
  std::string state_dir;  // default: beside status_dir, agent-state
  std::string zds_socket;
  std::string cni_socket;
  std::string bpf_dir = "/sys/fs/bpf/qanat/node";
  std::string cgroup_root;                // empty: from mountinfo
  std::vector<std::string> pods_cgroups;  // empty: from our own cgroup, see app.cc
  std::string admin = "127.0.0.1:15030";  // empty: none
  unsigned reconcile_ms = 2000;
  unsigned reprove_ms = 30000;
  unsigned cni_timeout_ms = 30000;
};

class App {
 public:
  // Everything is up when this returns: hooks attached, old pods taken over, sockets listening.
  static Result<std::unique_ptr<App>> Build(event::EventLoop& loop, const Config& config);
  ~App();

 private:
  struct Parts;
  explicit App(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

// --cleanup: plain networking for every pod of this instance, then its pins and state are removed.
Status Cleanup(const Config& config);

}  // namespace qanat::agent
