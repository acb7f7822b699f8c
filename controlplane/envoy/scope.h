// SPDX-License-Identifier: Apache-2.0
// What the translation of one waypoint works on: which services it serves, which clusters its
// routes have asked for, and what there is to tell the user. Lives for one BuildWaypoint().
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "controlplane/envoy/translate.h"

namespace google::protobuf {
class MessageLite;
}

namespace qanat::controlplane {

// How the bytes of a service's port are read.
enum class PortKind { kHttp, kTcp, kEither };
PortKind KindOf(const ServicePort& port);

// One service port that this waypoint serves.
struct ServedPort {
  const Service* service = nullptr;
  const ServicePort* port = nullptr;
  PortKind kind = PortKind::kTcp;
  std::string HttpName() const;  // of its filter chain, routes and cluster
  std::string TcpName() const;
};

// A cluster to be made.
struct ClusterSpec {
  const Service* service = nullptr;
  const ServicePort* port = nullptr;
  const Subset* subset = nullptr;  // nullptr: every endpoint
  bool http = false;
};

class Scope {
 public:
  Scope(const World& world, const WaypointKey& waypoint);

  const World& world() const { return world_; }
  const WaypointKey& waypoint() const { return waypoint_; }
  const std::vector<ServedPort>& ports() const { return ports_; }
  bool Serves(const Service& service) const { return served_.contains(&service); }

  // The name of the cluster for a route's destination, which is made if it is not one of the
  // waypoint's own. An unknown service or subset gives the name all the same, "" in `problem`
  // otherwise: requests to a cluster that does not exist are answered with an error.
  std::string ClusterFor(const std::string& host, uint16_t port, const std::string& subset,
                         bool http, std::string* problem);
  const std::map<std::string, ClusterSpec>& clusters() const { return clusters_; }

  // Subsets of all destination rules that count for the service, the first of a name wins.
  std::vector<const Subset*> SubsetsOf(const Service& service) const;
  // The effective settings: service, its port, subset, its port; each part replaces the whole part.
  TrafficSettings SettingsOf(const ClusterSpec& spec) const;

  void Tell(const ObjectMeta& object, int line, std::string reason, std::string message);
  void Emit(std::string_view type_url, std::string name, const google::protobuf::MessageLite& body);
  WaypointConfig Take();

 private:
  const std::vector<const DestinationRule*>& RulesOf(const Service& service) const;

  const World& world_;
  const WaypointKey waypoint_;
  std::vector<ServedPort> ports_;
  std::set<const Service*> served_;
  std::map<std::string, ClusterSpec> clusters_;
  // Asked for many times a service, and looking for them goes through all there are.
  mutable std::map<const Service*, std::vector<const DestinationRule*>> rules_;
  std::set<Notice> notices_;
  ResourceSet resources_;
};

// The parts, in the order in which they run: routes decide which clusters there are.
void EmitRoutes(Scope& scope);
void EmitListeners(Scope& scope);
void EmitClusters(Scope& scope);
void EmitEndpoints(Scope& scope);

}  // namespace qanat::controlplane
