// SPDX-License-Identifier: Apache-2.0
// Takes a mesh down by its names alone: no supervisor and no state file is needed, nothing of
// another mesh is touched. Safe to repeat.
#pragma once

#include <string>
#include <vector>

#include "common/base/result.h"
#include "tools/qanatctl/local/names.h"

namespace qanat::local {

struct Leftovers {
  std::vector<std::string> namespaces;
  std::vector<std::string> pins;
  std::vector<pid_t> processes;
  bool cgroup = false;
  bool run_dir = false;
  bool any() const {
    return !namespaces.empty() || !pins.empty() || !processes.empty() || cgroup || run_dir;
  }
  std::string ToString() const;
};

Leftovers FindLeftovers(const Names& names);

// `gentle`: the mesh's programs get SIGTERM and a moment before everything is killed.
Status TakeDown(const Names& names, bool gentle);

// The names of all meshes that have a run directory.
std::vector<std::string> KnownMeshes();

}  // namespace qanat::local
