// SPDX-License-Identifier: Apache-2.0
#include "waypoint/config/store.h"

#include <fmt/format.h>

#include "waypoint/config/decode.h"

namespace qanat::waypoint {
namespace {

std::string Joined(const std::vector<std::string>& list) {
  std::string out;
  for (const std::string& text : list) out.append(out.empty() ? "" : "; ").append(text);
  return out;
}

}  // namespace

std::string_view TypeName(ConfigStore::Type type) {
  switch (type) {
    case ConfigStore::Type::kListener: return "listener";
    case ConfigStore::Type::kRoute: return "route";
    case ConfigStore::Type::kCluster: return "cluster";
    case ConfigStore::Type::kEndpoint: return "endpoint";
  }
  return "";
}

ConfigStore::ConfigStore(Callbacks callbacks)
    : callbacks_(std::move(callbacks)), current_(std::make_shared<ConfigSnapshot>()) {}

Status ConfigStore::Apply(Type type, std::string_view name, std::string_view version,
                          std::string_view bytes) {
  auto key = std::make_pair(type, std::string(name));
  auto take = [&](auto decoded, auto& slots) -> Status {
    if (!decoded) {
      problems_[key] = decoded.error().message;
      return Fail(decoded.error());
    }
    auto& slot = slots[key.second];
    slot.value = std::move(decoded->value);
    slot.version = std::string(version);
    dirty_ = true;
    if (decoded->restricted.empty()) {
      problems_.erase(key);
      return {};
    }
    problems_[key] = "refuses where it is not understood: " + Joined(decoded->restricted);
    return Fail(Code::kUnimplemented, problems_[key]);
  };
  switch (type) {
    case Type::kListener: return take(DecodeListener(bytes), listeners_);
    case Type::kRoute: return take(DecodeRoutes(bytes), routes_);
    case Type::kCluster: return take(DecodeCluster(bytes), clusters_);
    case Type::kEndpoint: return take(DecodeEndpoints(bytes), endpoints_);
  }
  return {};
}

void ConfigStore::Remove(Type type, std::string_view name) {
  std::string key(name);
  problems_.erase({type, key});
  dirty_ = true;
  switch (type) {
    case Type::kListener: listeners_.erase(key); break;
    case Type::kCluster: clusters_.erase(key); break;
    // Asked for by name: remember the answer, so that waiting ends.
    case Type::kRoute: routes_[key] = {}; break;
    case Type::kEndpoint: endpoints_[key] = {}; break;
  }
}

void ConfigStore::BatchEnd(Type type) {
  if (type == Type::kListener) got_listeners_ = true;
  if (type == Type::kCluster) got_clusters_ = true;
  if (type == Type::kListener || type == Type::kCluster) UpdateWants();
  if (dirty_) Publish();
}

void ConfigStore::UpdateWants() {
  std::set<std::string> routes, endpoints;
  for (const auto& [name, slot] : listeners_) {
    routes.insert(slot.value->route_names.begin(), slot.value->route_names.end());
  }
  for (const auto& [name, slot] : clusters_) {
    if (!slot.value->eds_name.empty()) endpoints.insert(slot.value->eds_name);
  }
  auto forget = [this](Type type, auto& slots, const std::set<std::string>& wanted) {
    for (auto it = slots.begin(); it != slots.end();) {
      it = wanted.contains(it->first) ? std::next(it) : slots.erase(it);
    }
    std::erase_if(problems_, [&](const auto& p) {
      return p.first.first == type && !wanted.contains(p.first.second);
    });
  };
  if (routes != wanted_routes_) {
    wanted_routes_ = std::move(routes);
    forget(Type::kRoute, routes_, wanted_routes_);
    if (callbacks_.want) callbacks_.want(Type::kRoute, wanted_routes_);
  }
  if (endpoints != wanted_endpoints_) {
    wanted_endpoints_ = std::move(endpoints);
    forget(Type::kEndpoint, endpoints_, wanted_endpoints_);
    if (callbacks_.want) callbacks_.want(Type::kEndpoint, wanted_endpoints_);
  }
}

void ConfigStore::Publish() {
  auto next = std::make_shared<ConfigSnapshot>();
  next->generation = ++generation_;
  for (const auto& [name, slot] : listeners_) next->listeners.emplace(name, slot.value);
  for (const auto& [name, slot] : routes_) {
    if (slot.value) next->routes.emplace(name, slot.value);
  }
  for (const auto& [name, slot] : clusters_) next->clusters.emplace(name, slot.value);
  for (const auto& [name, slot] : endpoints_) {
    if (slot.value) next->endpoints.emplace(name, slot.value);
  }
  dirty_ = false;
  current_ = std::move(next);
  if (callbacks_.publish) callbacks_.publish(current_);
}

bool ConfigStore::complete() const {
  if (!got_listeners_ || !got_clusters_) return false;
  for (const std::string& name : wanted_routes_) {
    if (!routes_.contains(name) && !problems_.contains({Type::kRoute, name})) return false;
  }
  for (const std::string& name : wanted_endpoints_) {
    if (!endpoints_.contains(name) && !problems_.contains({Type::kEndpoint, name})) return false;
  }
  return true;
}

std::vector<ConfigStore::Problem> ConfigStore::problems() const {
  std::vector<Problem> out;
  for (const auto& [key, message] : problems_) {
    out.push_back({std::string(TypeName(key.first)), key.second, message});
  }
  return out;
}

std::vector<ConfigStore::Version> ConfigStore::versions() const {
  std::vector<Version> out;
  auto add = [&](Type type, const auto& slots) {
    for (const auto& [name, slot] : slots) {
      out.push_back({std::string(TypeName(type)), name, slot.version});
    }
  };
  add(Type::kListener, listeners_);
  add(Type::kRoute, routes_);
  add(Type::kCluster, clusters_);
  add(Type::kEndpoint, endpoints_);
  return out;
}

}  // namespace qanat::waypoint
