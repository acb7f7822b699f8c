// SPDX-License-Identifier: Apache-2.0
// The waypoint's configuration as it arrives over delta xDS: decodes each resource, keeps the last
// good one, knows which routes and endpoints are asked for by name, and publishes a snapshot after
// each batch. Main thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "waypoint/config/config.h"

namespace qanat::waypoint {

class ConfigStore {
 public:
  enum class Type : uint8_t { kListener, kRoute, kCluster, kEndpoint };
  struct Callbacks {
    // The names to subscribe to, after a batch that changed them.
    std::function<void(Type, const std::set<std::string>&)> want;
    std::function<void(SnapshotPtr)> publish;
  };
  explicit ConfigStore(Callbacks callbacks);

  // An error goes into the NACK. The previous state of that resource stays, but for a policy that
  // was understood in part: that one is applied, refusing where it is not understood.
  Status Apply(Type type, std::string_view name, std::string_view version, std::string_view bytes);
  void Remove(Type type, std::string_view name);
  void BatchEnd(Type type);

  // Every listener, cluster, and every route and endpoint set that those name has come (or the
  // server said that it does not exist): before that, requests would be refused for want of config.
  bool complete() const;
  SnapshotPtr snapshot() const { return current_; }

  struct Problem {
    std::string type, name, message;
  };
  std::vector<Problem> problems() const;  // resources rejected or restricted at present
  struct Version {
    std::string type, name, version;
  };
  std::vector<Version> versions() const;

 private:
  template <typename T>
  struct Slot {
    std::shared_ptr<const T> value;  // null: known not to exist
    std::string version;
  };
  template <typename T>
  using Slots = std::map<std::string, Slot<T>, std::less<>>;

  void Publish();
  void UpdateWants();

  Callbacks callbacks_;
  Slots<ListenerConfig> listeners_;
  Slots<RouteTable> routes_;
  Slots<ClusterConfig> clusters_;
  Slots<EndpointSet> endpoints_;
  std::map<std::pair<Type, std::string>, std::string> problems_;
  std::set<std::string> wanted_routes_, wanted_endpoints_;
  bool got_listeners_ = false, got_clusters_ = false;
  bool dirty_ = false;
  SnapshotPtr current_;
  uint64_t generation_ = 0;
};

std::string_view TypeName(ConfigStore::Type type);

}  // namespace qanat::waypoint
