// SPDX-License-Identifier: Apache-2.0
// World: everything that the sources said, at one moment, with the indexes that translators need.
// Built on the control plane's thread, immutable afterwards, shared by shared_ptr<const World>.
// Pointers that a World hands out live as long as the World.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/net/address.h"
#include "controlplane/model/core.h"
#include "controlplane/model/gateway_api.h"
#include "controlplane/model/networking.h"
#include "controlplane/model/security.h"

namespace qanat::controlplane {

struct MeshConfig {
  std::string trust_domain = "cluster.local";
  std::string cluster_id = "Kubernetes";
  std::string network;
  std::string domain = "cluster.local";  // of service host names
  std::string root_namespace = "istio-system";
};

// The objects as read, before any index. Names are unique per kind.
struct Objects {
  std::vector<Namespace> namespaces;
  std::vector<Node> nodes;
  std::vector<ServiceAccount> service_accounts;
  std::vector<Pod> pods;
  std::vector<Service> services;
  std::vector<EndpointSlice> endpoint_slices;
  std::vector<GatewayClass> gateway_classes;
  std::vector<Gateway> gateways;
  std::vector<HttpRoute> http_routes;
  std::vector<VirtualService> virtual_services;
  std::vector<DestinationRule> destination_rules;
  std::vector<ServiceEntry> service_entries;
  std::vector<PeerAuthentication> peer_authentications;
  std::vector<AuthorizationPolicy> authorization_policies;
  std::vector<RequestAuthentication> request_authentications;
};

// One address that a service port leads to.
struct Endpoint {
  net::IpAddress ip;  // unset when `hostname` is what there is
  std::string hostname;
  uint16_t port = 0;         // target port, resolved
  std::string workload_uid;  // "" for an opaque EndpointSlice address
  const Pod* pod = nullptr;  // nullptr for anything that is not a pod
  Labels labels;
  std::string ns;
  std::string service_account;  // "" when unknown
  bool hbone = false;           // the workload takes HBONE on 15008
  bool healthy = true;
  std::string node, region, zone, subzone;
  uint32_t weight = 1;
  // spiffe://<trust domain>/ns/<ns>/sa/<sa>, "" when unknown.
  std::string identity;
};

enum class WaypointFor { kService, kWorkload, kAll, kNone };

// What a use-waypoint label led to.
struct WaypointRef {
  enum class State {
    kNone,          // no waypoint is asked for
    kReady,         //
    kNotReady,      // the Gateway has no address yet: traffic is refused, never direct
    kMissing,       // no such Gateway: traffic is refused, never direct
    kNotAllowed,    // its listener does not admit this namespace: traffic is refused
    kWrongTraffic,  // the Gateway's waypoint-for excludes this: traffic goes direct
    kNotAWaypoint,  // that Gateway is of another class: traffic is refused
  };
  State state = State::kNone;
  NamespacedName gateway;
  std::string hostname;  // of the gateway's Service
  bool named_by_namespace = false;
  // The translator must put a reference into xDS.
  bool effective() const { return state != State::kNone && state != State::kWrongTraffic; }
};

using WaypointKey = NamespacedName;  // namespace and name of the Gateway

class World {
 public:
  static std::shared_ptr<const World> Build(Objects objects, MeshConfig mesh);

  const Objects& objects() const { return objects_; }
  const MeshConfig& mesh() const { return mesh_; }

  // --- Lookups; nullptr when there is none ---------------------------------------------------
  const Namespace* FindNamespace(std::string_view name) const;
  const Node* FindNode(std::string_view name) const;
  const Pod* FindPod(const NamespacedName& key) const;
  const Pod* FindPodByUid(std::string_view uid) const;
  // Not hostNetwork pods. Two pods with one address: nullptr (nobody may be taken for another).
  const Pod* FindPodByIp(const net::IpAddress& ip) const;
  const Service* FindService(const NamespacedName& key) const;
  const Service* FindServiceByHostname(std::string_view fqdn) const;
  const Gateway* FindGateway(const NamespacedName& key) const;
  std::vector<const Pod*> PodsInNamespace(std::string_view ns) const;
  std::vector<const Pod*> PodsMatching(std::string_view ns, const Labels& selector) const;
  // The label of the object's namespace, nullptr when absent.
  const std::string* NamespaceLabel(std::string_view ns, std::string_view key) const;

  // --- Services ------------------------------------------------------------------------------
  std::string ServiceHostname(const NamespacedName& key) const;
  // "reviews", "reviews.ns", "reviews.ns.svc", or a full name, as seen from namespace `from`.
  std::string ResolveHost(std::string_view host, std::string_view from) const;
  std::vector<const Service*> ServicesOfPod(const Pod& pod) const;
  // Healthy and unhealthy ones; terminal pods and pods without address are left out; one entry
  // per address of a dual-stack pod. A named target port that a pod has not leaves that pod out.
  std::vector<Endpoint> EndpointsOf(const Service& service, const ServicePort& port) const;
  std::optional<uint16_t> TargetPort(const Pod& pod, const ServicePort& port) const;
  bool TakesHbone(const Pod& pod) const;  // captured by a node proxy, or a native tunnel
  bool NativeTunnel(const Pod& pod) const;
  std::string IdentityOf(const Pod& pod) const;
  std::string WorkloadUid(const Pod& pod) const;  // <cluster>//Pod/<ns>/<name>
  // Owner name and kind: Deployment from ReplicaSet, CronJob from Job, else the pod itself.
  std::string WorkloadName(const Pod& pod) const;

  // --- Waypoints -----------------------------------------------------------------------------
  bool IsWaypoint(const Gateway& gateway) const;  // class istio-waypoint or qanat-waypoint
  WaypointFor TrafficOf(const Gateway& gateway) const;
  WaypointRef WaypointOf(const Service& service) const;
  WaypointRef WaypointOf(const Pod& pod) const;  // traffic addressed to the pod itself
  // Objects that have chosen this waypoint and that it accepts (state kReady or kNotReady).
  std::vector<const Service*> ServicesUsing(const WaypointKey& waypoint) const;
  std::vector<const Pod*> PodsUsing(const WaypointKey& waypoint) const;

  // --- Routes: what a waypoint does with requests for a service -------------------------------
  // The one VirtualService that counts: oldest of those whose hosts name the service, which are
  // for the mesh, and which live in the service's or the waypoint's namespace. (A fragment without
  // hosts has been given those of its destinations by the reader.)
  const VirtualService* VirtualServiceFor(const Service& service,
                                          const WaypointKey& waypoint) const;
  // Routes with this Service as parent, in the service's own namespace, oldest first.
  std::vector<const HttpRoute*> HttpRoutesFor(const Service& service) const;
  // Those of the service's own namespace or, if there are none, of the root namespace; oldest
  // first. The translator merges them: subsets are united, the first trafficPolicy counts.
  std::vector<const DestinationRule*> DestinationRulesFor(const Service& service) const;

  // --- Policies ------------------------------------------------------------------------------
  // targetRefs that name this waypoint's Gateway, its class (from the root namespace), or the
  // service. `service` may be nullptr: only those of the waypoint.
  std::vector<const AuthorizationPolicy*> WaypointPolicies(const WaypointKey& waypoint,
                                                           const Service* service) const;
  std::vector<const RequestAuthentication*> WaypointJwtRules(const WaypointKey& waypoint,
                                                             const Service* service) const;
  // Policies with a selector, of the pod's or the root namespace, that select this pod.
  std::vector<const AuthorizationPolicy*> SelectorPolicies(const Pod& pod) const;

 private:
  World(Objects objects, MeshConfig mesh);
  void Index();
  void MakeWaypointServices();
  WaypointRef ResolveWaypoint(const ObjectMeta& object, bool for_service) const;

  template <typename T>
  using ByName = std::map<NamespacedName, const T*>;
  Objects objects_;
  MeshConfig mesh_;
  std::map<std::string, const Namespace*, std::less<>> namespaces_;
  std::map<std::string, const Node*, std::less<>> nodes_;
  ByName<Pod> pods_;
  std::map<std::string, const Pod*, std::less<>> pods_by_uid_;
  std::map<net::IpAddress, const Pod*> pods_by_ip_;
  std::map<std::string, std::vector<const Pod*>, std::less<>> pods_by_namespace_;
  ByName<Service> services_;
  std::map<std::string, std::vector<const Service*>, std::less<>> services_by_namespace_;
  std::map<std::string, const Service*, std::less<>> services_by_hostname_;
  std::map<NamespacedName, std::vector<const EndpointSlice*>> slices_by_service_;
  ByName<Gateway> gateways_;
  std::map<NamespacedName, std::vector<const Service*>> services_by_waypoint_;
  std::map<NamespacedName, std::vector<const Pod*>> pods_by_waypoint_;
};

}  // namespace qanat::controlplane
