// SPDX-License-Identifier: Apache-2.0
// One enrolled pod: what the node agent says of it, and what its network namespace shows. Made on
// the main thread, immutable, shared with the workers.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "common/base/memory_meter.h"
#include "common/netns/netns.h"
#include "common/route/pod_facts.h"

namespace qanat::ztunnel {

// What a pod has at present, counted by all workers.
struct PodLoad {
  std::atomic<uint32_t> connections{0};
  MemoryMeter memory;  // what its connections hold
};

// Its addresses: global ones, by rtnetlink, inside the namespace.
struct Pod : route::PodFacts {
  std::string uid;  // Kubernetes pod UID
  // None: the proxy's own namespace (PROXY_MODE=dedicated, and the proxy's own pod), which needs no
  // rights to enter.
  std::shared_ptr<const netns::NetNs> netns;
  bool proxy_itself = false;  // the proxy's own pod: it is only reached, and nothing is captured
  uint64_t netns_cookie = 0;
  std::shared_ptr<PodLoad> load = std::make_shared<PodLoad>();  // stays with every new description
};
using PodPtr = std::shared_ptr<const Pod>;

}  // namespace qanat::ztunnel
