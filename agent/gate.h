// SPDX-License-Identifier: Apache-2.0
// Hands the source's words on to the enroller and tells when it is synced. What the proxy reads
// about a pod is there before the pod is handed to it, and as long as it may look. Main loop.
#pragma once

#include <functional>
#include <string>

#include "agent/enrol/enroller.h"
#include "agent/pods/dns_files.h"
#include "agent/pods/source.h"

namespace qanat::agent {

class Gate final : public PodListener {
 public:
  // The enroller outlives it.
  Gate(Enroller& enroller, DnsFilesOptions dns, std::function<void()> on_synced);
  void OnPod(const Pod& pod) override;
  void OnPodGone(const std::string& uid) override;
  void OnSynced() override;

 private:
  Enroller& enroller_;
  DnsFiles dns_;
  std::function<void()> on_synced_;
};

}  // namespace qanat::agent
