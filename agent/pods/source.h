// SPDX-License-Identifier: Apache-2.0
// Where the pods of this node come from. Lives on the agent's loop; calls its listener there.
#pragma once

#include <string>

#include "agent/pods/pod.h"

namespace qanat::agent {

class PodListener {
 public:
  virtual void OnPod(const Pod& pod) = 0;  // new or changed
  virtual void OnPodGone(const std::string& uid) = 0;
  // Everything that exists has been delivered: what was not shown is gone. Once.
  virtual void OnSynced() = 0;

 protected:
  ~PodListener() = default;
};

class PodSource {
 public:
  virtual ~PodSource() = default;
  // Delivers everything that exists, then calls OnSynced(), before it returns or later; goes on by
  // itself. The proxy's snapshot is made from what is known: what is missing from it is torn down
  // there, so no proxy is listened to before OnSynced() unless saved state tells all that counts.
  virtual Status Start(PodListener* listener) = 0;
  virtual size_t broken() const = 0;  // objects that could not be read, for /healthz and metrics
};

}  // namespace qanat::agent
