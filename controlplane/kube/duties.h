// SPDX-License-Identifier: Apache-2.0
// What the leader writes: GatewayClasses, waypoints of Gateways, root certificates, statuses. Made
// when this replica begins to lead and destroyed when it no longer does, so nothing of an earlier
// time is ever written. Each round compares what is wanted with what the API server has; a round
// follows every change, soon but not at once. On the control plane's loop.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/kube/client.h"
#include "common/kube/reflector.h"
#include "common/metrics/registry.h"
#include "controlplane/kube/gateway_controller.h"
#include "controlplane/kube/root_config.h"
#include "controlplane/kube/status_writes.h"
#include "controlplane/kube/writer.h"
#include "controlplane/model/world.h"
#include "controlplane/source/issue.h"
#include "controlplane/translate/status.h"

namespace qanat::controlplane {

struct DutyState {
  std::shared_ptr<const World> world;
  std::vector<ObjectStatus> statuses;
  std::vector<Issue> issues;
};

class Duties {
 public:
  struct Needs {
    std::function<DutyState()> state;  // the present one
    Observed observed;
    std::function<bool(std::string_view kind)> kind_exists;
    std::function<bool()> may_write;
    std::string root_pem;
    WaypointSettings waypoint;
  };
  Duties(event::EventLoop& loop, kube::Client& client, metrics::Registry& registry, Needs needs);
  ~Duties();

  void Changed();  // the state is another one
  // What is wrong in what the leader alone looks at.
  const std::vector<Issue>& issues() const { return issues_; }

 private:
  void Round();
  Writes Possible(Writes statuses) const;
  Writes ClassWrites(const World& world) const;

  const Needs needs_;
  Writer writer_;
  GatewayController gateways_;
  std::map<std::string, RootConfig> root_configs_;  // by namespace
  bool root_configs_synced_ = false;
  std::unique_ptr<kube::Reflector> root_reflector_;
  event::Timer round_;
  event::Duration settle_;
  std::vector<Issue> issues_;
};

}  // namespace qanat::controlplane
