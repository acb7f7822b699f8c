// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/cluster_state.h"

#include <algorithm>

namespace qanat::waypoint {

void ClusterState::Update(std::shared_ptr<const ClusterConfig> config,
                          std::shared_ptr<const EndpointSet> endpoints) {
  config_ = std::move(config);
  if (endpoints == endpoints_) return;
  endpoints_ = std::move(endpoints);
  std::unordered_map<net::SocketAddress, std::shared_ptr<HostState>> kept;
  states_.clear();
  if (endpoints_) {
    for (const Endpoint& e : endpoints_->endpoints) {
      auto old = by_address_.find(e.address);
      auto state = old == by_address_.end() ? std::make_shared<HostState>() : old->second;
      kept.emplace(e.address, state);
      states_.push_back(std::move(state));
    }
  }
  by_address_ = std::move(kept);
}

std::optional<ClusterState::Pick> ClusterState::PickEndpoint(
    const std::function<uint64_t()>& random, event::TimePoint now,
    const std::vector<net::SocketAddress>& avoid, uint32_t avoid_attempts) {
  if (!endpoints_) return std::nullopt;
  const auto& list = endpoints_->endpoints;
  scratch_.resize(list.size());
  bool any = false;
  std::vector<size_t> avoided;
  for (size_t i = 0; i < list.size(); ++i) {
    bool ejected = states_[i]->ejected_until > now;
    scratch_[i] = {list[i].weight, list[i].priority, list[i].healthy && !ejected,
                   states_[i]->active};
    any = any || scratch_[i].healthy;
    if (std::find(avoid.begin(), avoid.end(), list[i].address) != avoid.end()) {
      avoided.push_back(i);
    }
  }
  // All that are well are ejected: better to try them than to fail for certain.
  if (!any) {
    for (size_t i = 0; i < list.size(); ++i) scratch_[i].healthy = list[i].healthy;
  }
  auto index =
      PickHost(config_->lb, scratch_, lb_, random, avoided, avoid_attempts, config_->lb_choices);
  if (!index) return std::nullopt;
  return Pick{endpoints_, &list[*index], *index, states_[*index]};
}

void ClusterState::Report(const Pick& pick, int status, event::TimePoint now) {
  if (!config_->outlier || pick.state == nullptr) return;
  const OutlierConfig& o = *config_->outlier;
  HostState& s = *pick.state;
  const bool any5xx = status == 0 || status >= 500;
  const bool gateway = status == 0 || (status >= 502 && status <= 504);
  s.consecutive_5xx = any5xx ? s.consecutive_5xx + 1 : 0;
  s.consecutive_gateway = gateway ? s.consecutive_gateway + 1 : 0;
  if (!any5xx) return;
  const bool eject = (o.consecutive_5xx > 0 && s.consecutive_5xx >= o.consecutive_5xx) ||
                     (o.consecutive_gateway > 0 && s.consecutive_gateway >= o.consecutive_gateway);
  if (!eject || s.ejected_until > now) return;
  size_t ejected = 0;
  for (const auto& other : states_) ejected += other->ejected_until > now ? 1 : 0;
  // Envoy: at least one host may always be ejected, beyond that max_ejection_percent holds.
  if (ejected > 0 && (ejected + 1) * 100 > states_.size() * o.max_ejection_percent) return;
  s.consecutive_5xx = s.consecutive_gateway = 0;
  ++s.ejections;
  s.ejected_until = now + std::min(o.base_ejection * s.ejections, o.max_ejection);
}

std::shared_ptr<ClusterState> ClusterTable::Find(const ConfigSnapshot& snapshot,
                                                 const std::string& name) {
  auto config = snapshot.FindCluster(name);
  if (!config) return nullptr;
  auto& state = clusters_[name];
  if (!state) state = std::make_shared<ClusterState>();
  state->Update(config, snapshot.EndpointsOf(*config));
  return state;
}

void ClusterTable::Prune(const ConfigSnapshot& snapshot) {
  for (auto it = clusters_.begin(); it != clusters_.end();) {
    it = snapshot.FindCluster(it->first) ? std::next(it) : clusters_.erase(it);
  }
}

}  // namespace qanat::waypoint
