// SPDX-License-Identifier: Apache-2.0
// What every node proxy is told, at one moment: translated once, shared by all sessions, immutable.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "controlplane/model/resource.h"
#include "controlplane/model/world.h"

namespace qanat::controlplane {

struct ConfigSnapshot {
  uint64_t generation = 0;
  std::shared_ptr<const World> world;
  ResourceSet resources;
  // For subscriptions by name: an alias ("network/ip") or a service's name -> the names of the
  // resources that answer it (a service brings its workloads along).
  std::map<std::string, std::vector<std::string>, std::less<>> answers;
};

std::shared_ptr<const ConfigSnapshot> BuildSnapshot(std::shared_ptr<const World> world,
                                                    uint64_t generation);

}  // namespace qanat::controlplane
