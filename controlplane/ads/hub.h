// SPDX-License-Identifier: Apache-2.0
// All connected proxies: who they are, what each is sent, and when. A new snapshot goes out at
// once; a client that is still busy with the last message gets the newest state when it is done. On
// the control plane's loop.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/metrics/registry.h"
#include "controlplane/ads/rpc.h"
#include "controlplane/ads/session.h"
#include "controlplane/ads/snapshot.h"
#include "controlplane/ca/caller.h"
#include "controlplane/envoy/translate.h"

namespace qanat::controlplane {

class AdsHub {
 public:
  using TranslateWaypoint = std::function<WaypointConfig(const World&, const WaypointKey&)>;
  using WallClock = std::function<tls::Time()>;
  AdsHub(Authenticator& tokens, TranslateWaypoint translate, WallClock clock,
         metrics::Registry& registry);
  ~AdsHub();

  // `changed_at`: when the source saw the change, for the convergence metric.
  void Publish(std::shared_ptr<const ConfigSnapshot> snapshot, event::TimePoint changed_at);
  const std::shared_ptr<const ConfigSnapshot>& snapshot() const { return snapshot_; }

  std::unique_ptr<StreamHandler> OnStream(const CallInfo& call, StreamWriter& writer);

  // Translated once per snapshot and waypoint.
  const WaypointConfig& Waypoint(const WaypointKey& key);

  struct Client {
    std::string id, type, peer, node, version, waypoint;
    Caller caller;
    tls::Time connected_at;
    const AdsSession* session = nullptr;  // valid until the loop's next round; may be nullptr
    uint64_t generation = 0;
  };
  std::vector<Client> Clients() const;

 private:
  class Connection;
  void Pump(Connection& connection);
  SessionSource SourceFor(const Connection& connection);
  void CountVersions();

  Authenticator& tokens_;
  const TranslateWaypoint translate_;
  const WallClock clock_;
  std::shared_ptr<const ConfigSnapshot> snapshot_;
  std::shared_ptr<const ResourceSet> mesh_resources_;
  event::TimePoint changed_at_{};
  struct CachedWaypoint {
    WaypointConfig config;
    std::shared_ptr<const ResourceSet> resources;
  };
  std::map<WaypointKey, CachedWaypoint> waypoints_;
  std::list<Connection*> connections_;
  metrics::Family<metrics::Gauge>& clients_;
  metrics::Family<metrics::Gauge>& pushes_;
  metrics::Family<metrics::Gauge>& rejects_;
  metrics::Family<metrics::Counter>& refused_;
  metrics::Family<metrics::Histogram>& convergence_;
  metrics::Family<metrics::Histogram>& sizes_;
};

}  // namespace qanat::controlplane
