// SPDX-License-Identifier: Apache-2.0
// One worker's running state of the clusters: requests in flight per endpoint, limits (circuit
// breakers), ejected endpoints. Kept across configuration changes by endpoint address. Worker
// thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/event/event_loop.h"
#include "waypoint/config/config.h"

namespace qanat::waypoint {

struct HostState {
  uint32_t active = 0;
  uint32_t consecutive_5xx = 0;
  uint32_t consecutive_gateway = 0;
  uint32_t ejections = 0;
  event::TimePoint ejected_until{};
};

class ClusterState {
 public:
  void Update(std::shared_ptr<const ClusterConfig> config,
              std::shared_ptr<const EndpointSet> endpoints);

  struct Pick {
    std::shared_ptr<const EndpointSet> owner;
    const Endpoint* endpoint = nullptr;
    size_t index = 0;
    std::shared_ptr<HostState> state;
  };
  std::optional<Pick> PickEndpoint(const std::function<uint64_t()>& random, event::TimePoint now,
                                   const std::vector<net::SocketAddress>& avoid,
                                   uint32_t avoid_attempts);

  // Outlier detection: what an attempt came to. 0: no answer (counts as a gateway failure).
  void Report(const Pick& pick, int status, event::TimePoint now);

  const ClusterConfig& config() const { return *config_; }
  std::shared_ptr<const ClusterConfig> config_ptr() const { return config_; }
  const std::shared_ptr<const EndpointSet>& endpoints() const { return endpoints_; }
  const std::vector<std::shared_ptr<HostState>>& states() const { return states_; }

  uint32_t active_requests = 0;
  uint32_t active_retries = 0;
  bool RequestAllowed() const {
    return config_->max_requests == 0 || active_requests < config_->max_requests;
  }
  bool RetryAllowed() const {
    return config_->max_retries == 0 || active_retries < config_->max_retries;
  }

 private:
  std::shared_ptr<const ClusterConfig> config_;
  std::shared_ptr<const EndpointSet> endpoints_;
  std::vector<std::shared_ptr<HostState>> states_;  // parallel to the endpoints
  std::unordered_map<net::SocketAddress, std::shared_ptr<HostState>> by_address_;
  std::vector<LbHost> scratch_;
  LbState lb_;
};

class ClusterTable {
 public:
  // Null: no such cluster in this snapshot.
  std::shared_ptr<ClusterState> Find(const ConfigSnapshot& snapshot, const std::string& name);
  // Forgets what the snapshot no longer has.
  void Prune(const ConfigSnapshot& snapshot);
  const std::unordered_map<std::string, std::shared_ptr<ClusterState>>& all() const {
    return clusters_;
  }

 private:
  std::unordered_map<std::string, std::shared_ptr<ClusterState>> clusters_;
};

}  // namespace qanat::waypoint
