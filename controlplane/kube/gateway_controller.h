// SPDX-License-Identifier: Apache-2.0
// Waypoint Gateways -> ServiceAccount, Service and Deployment, and what the Gateway's status says
// of them. Exists while this replica leads. Objects that somebody else made are never touched: the
// Gateway's condition says so. Removal is the garbage collector's business (owner references), but
// for Gateways that stop being waypoints. On the control plane's loop.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/event/event_loop.h"
#include "common/kube/client.h"
#include "common/kube/reflector.h"
#include "controlplane/kube/status_writes.h"
#include "controlplane/kube/waypoint_objects.h"
#include "controlplane/kube/writer.h"
#include "controlplane/model/world.h"
#include "controlplane/source/issue.h"

namespace qanat::controlplane {

class GatewayController {
 public:
  // `on_change`: an Evaluate() would have another result.
  GatewayController(event::EventLoop& loop, kube::Client& client, WaypointSettings settings,
                    std::function<void()> on_change);
  ~GatewayController();

  struct Outcome {
    Writes objects;
    Writes statuses;
    std::vector<Issue> issues;
  };
  Outcome Evaluate(const World& world, const Observed& observed, const std::string& now);

 private:
  // What is known of a Deployment of a waypoint's name.
  struct Found {
    bool ours = false;  // made for the Gateway of its name
    std::string spec_hash;
    int64_t generation = 0;
  };
  // A Deployment that our watch does not show may still exist, without our labels.
  struct Probe {
    kube::HandlePtr call;
    bool answered = false;
    bool taken = false;  // it exists and is not ours
    event::TimePoint at{};
  };
  class Round;

  static Found Parse(std::string_view json);
  // nullptr: not known yet, an answer will call on_change.
  const Probe* Ask(const NamespacedName& key);

  event::EventLoop& loop_;
  kube::Client& client_;
  const WaypointSettings settings_;
  const std::function<void()> on_change_;
  std::map<NamespacedName, Found> deployments_;
  std::map<NamespacedName, Probe> probes_;
  // The generation of each Deployment at which our last apply was seen to change nothing.
  std::map<NamespacedName, std::pair<std::string, int64_t>> settled_;
  std::unique_ptr<kube::Reflector> reflector_;
  bool synced_ = false;
  event::Timer again_;
};

}  // namespace qanat::controlplane
