// SPDX-License-Identifier: Apache-2.0
// The control plane's wiring page: source -> model -> translation -> sessions, certificates beside
// it, HTTP pages on a thread of their own. Everything but those pages and the gRPC library runs on
// the loop of Run()'s thread.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "controlplane/ca/authority.h"
#include "controlplane/kube/cluster.h"
#include "controlplane/model/world.h"

namespace qanat::controlplane {

struct AppOptions {
  std::string source;      // folder:DIR or kubernetes
  std::string overlay;     // DIR, "" for none; with a folder
  std::string token_jwks;  // with a folder
  std::string kubeconfig;  // "": the pod's own, else the user's
  ClusterOptions cluster;
  CaOptions ca;  // its directory with a folder
  MeshConfig mesh;
  std::set<std::string> trusted_nodes = {"qanat-system/ztunnel", "istio-system/ztunnel"};
  std::string listen = "[::]:15012";
  std::string http = "[::]:8080";
  std::string metrics = "[::]:15014";
  bool debug_from_anywhere = false;  // else the /debug pages answer loopback only
  std::vector<std::string> sans;     // more names and addresses of the serving certificate
};

class App {
 public:
  // With a folder everything is served when this returns. In a cluster that comes later: the
  // authority's key and every object have to be read first; /ready tells.
  static Result<std::unique_ptr<App>> Create(AppOptions options);
  ~App();
  // Until SIGTERM or SIGINT. The exit code.
  int Run();

 private:
  class Impl;
  explicit App(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::controlplane
