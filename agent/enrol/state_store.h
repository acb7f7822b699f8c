// SPDX-License-Identifier: Apache-2.0
// What must survive a restart of the agent and is not in the pinned maps: which slot id a pod has,
// its namespace, what its sysctls were. One JSON file per pod, written by rename.
#pragma once

#include <string>
#include <vector>

#include "agent/files/files.h"
#include "agent/pods/pod.h"
#include "agent/redirect/pod_network.h"
#include "common/base/result.h"

namespace qanat::agent {

struct SavedPod {
  Pod pod;  // identity, addresses and namespace; labels are not saved
  uint32_t id = 0;
  uint64_t cookie = 0;
  bool enforced = false;
  SavedSysctls sysctls;
  uint32_t dns = 0;  // qanat_dns_families that go to the proxy
};

class StateStore {
 public:
  explicit StateStore(std::string dir) : dir_(std::move(dir)) {}
  // Creates the folder. Files that cannot be read are reported in the log and left alone.
  Result<std::vector<SavedPod>> Load();
  Status Save(const SavedPod& pod);
  void Remove(const std::string& uid);
  const std::string& dir() const { return dir_; }

 private:
  std::string dir_;
};

Result<SavedPod> ParseSavedPod(std::string_view text);
std::string FormatSavedPod(const SavedPod& pod);

}  // namespace qanat::agent
