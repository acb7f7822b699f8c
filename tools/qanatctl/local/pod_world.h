// SPDX-License-Identifier: Apache-2.0
// What all pods of a local mesh share, and where one of them lives on this machine. The world is
// the supervisor's and outlives all pods.
#pragma once

#include <functional>
#include <string>

#include "common/event/event_loop.h"
#include "tools/qanatctl/local/ipam.h"
#include "tools/qanatctl/local/network.h"
#include "tools/qanatctl/local/plan.h"
#include "tools/qanatctl/local/token.h"

namespace qanat::local {

class Pod;

struct PodWorld {
  event::EventLoop& loop;
  const Names& names;
  Network& network;
  PodAddresses& addresses;
  std::string cgroup_root;  // <cgroup2>/qanat-<mesh>
  std::string bin_dir;
  bool mesh = true;
  bool json_logs = false;
  const TokenIssuer* issuer = nullptr;  // with `mesh`
  const Plan* plan = nullptr;           // namespaces, ConfigMaps, Secrets as they are now
  std::function<void(Pod&)> changed;    // publish soon
  std::function<void()> publish_now;    // before the agent is asked to enrol
};

struct PodPlaces {
  std::string dir;  // its files, below the run directory
  std::string cgroup;
  std::string netns;  // path
};

}  // namespace qanat::local
