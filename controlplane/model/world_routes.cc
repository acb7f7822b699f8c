// SPDX-License-Identifier: Apache-2.0
// Which routes and policies count for which service, waypoint and pod.
#include <algorithm>

#include "controlplane/model/world.h"

namespace qanat::controlplane {
namespace {

// "*.shop.svc.cluster.local" or "*"; otherwise equality.
bool HostMatches(std::string_view pattern, std::string_view host) {
  if (pattern == "*") return true;
  if (!pattern.starts_with("*.")) return pattern == host;
  return host.ends_with(pattern.substr(1));
}

template <typename T>
void SortByAge(std::vector<const T*>& objects) {
  std::sort(objects.begin(), objects.end(),
            [](const T* a, const T* b) { return OlderThan(a->meta, b->meta); });
}

bool Attaches(const World& world, const ObjectMeta& policy, const std::vector<TargetRef>& targets,
              const WaypointKey& waypoint, const Service* service) {
  const Gateway* gateway = world.FindGateway(waypoint);
  for (const TargetRef& target : targets) {
    if (!target.ns.empty() && target.ns != policy.ns) continue;
    if (target.kind == "Service" && (target.group.empty() || target.group == "core")) {
      if (service != nullptr && policy.ns == service->meta.ns &&
          target.name == service->meta.name) {
        return true;
      }
    } else if (target.group == "gateway.networking.k8s.io" && target.kind == "Gateway") {
      if (policy.ns == waypoint.ns && target.name == waypoint.name) return true;
    } else if (target.group == "gateway.networking.k8s.io" && target.kind == "GatewayClass") {
      // Our class and the reference's are one: a mesh-wide policy written for either counts.
      if (policy.ns == world.mesh().root_namespace && gateway != nullptr &&
          (target.name == gateway->class_name ||
           (target.name == "istio-waypoint" && world.IsWaypoint(*gateway)))) {
        return true;
      }
    }
  }
  return false;
}

}  // namespace

const VirtualService* World::VirtualServiceFor(const Service& service,
                                               const WaypointKey& waypoint) const {
  const VirtualService* best = nullptr;
  for (const VirtualService& candidate : objects_.virtual_services) {
    if (candidate.meta.ns != service.meta.ns && candidate.meta.ns != waypoint.ns) continue;
    if (!candidate.applies_to_mesh()) continue;
    if (best != nullptr && OlderThan(best->meta, candidate.meta)) continue;
    const bool names =
        std::any_of(candidate.hosts.begin(), candidate.hosts.end(), [&](const std::string& host) {
          return HostMatches(ResolveHost(host, candidate.meta.ns), service.hostname);
        });
    if (names) best = &candidate;
  }
  return best;
}

std::vector<const HttpRoute*> World::HttpRoutesFor(const Service& service) const {
  std::vector<const HttpRoute*> out;
  for (const HttpRoute& route : objects_.http_routes) {
    if (route.meta.ns != service.meta.ns) continue;
    const bool names =
        std::any_of(route.parents.begin(), route.parents.end(), [&](const ParentRef& parent) {
          return parent.kind == "Service" && (parent.group.empty() || parent.group == "core") &&
                 parent.ns == service.meta.ns && parent.name == service.meta.name;
        });
    if (names) out.push_back(&route);
  }
  SortByAge(out);
  return out;
}

std::vector<const DestinationRule*> World::DestinationRulesFor(const Service& service) const {
  const auto in_namespace = [&](const std::string& ns) {
    std::vector<const DestinationRule*> out;
    for (const DestinationRule& rule : objects_.destination_rules) {
      if (rule.meta.ns == ns && HostMatches(ResolveHost(rule.host, ns), service.hostname)) {
        out.push_back(&rule);
      }
    }
    SortByAge(out);
    return out;
  };
  std::vector<const DestinationRule*> out = in_namespace(service.meta.ns);
  if (out.empty() && service.meta.ns != mesh_.root_namespace) {
    out = in_namespace(mesh_.root_namespace);
  }
  return out;
}

std::vector<const AuthorizationPolicy*> World::WaypointPolicies(const WaypointKey& waypoint,
                                                                const Service* service) const {
  std::vector<const AuthorizationPolicy*> out;
  for (const AuthorizationPolicy& policy : objects_.authorization_policies) {
    if (Attaches(*this, policy.meta, policy.targets, waypoint, service)) out.push_back(&policy);
  }
  return out;
}

std::vector<const RequestAuthentication*> World::WaypointJwtRules(const WaypointKey& waypoint,
                                                                  const Service* service) const {
  std::vector<const RequestAuthentication*> out;
  for (const RequestAuthentication& policy : objects_.request_authentications) {
    if (Attaches(*this, policy.meta, policy.targets, waypoint, service)) out.push_back(&policy);
  }
  return out;
}

std::vector<const AuthorizationPolicy*> World::SelectorPolicies(const Pod& pod) const {
  std::vector<const AuthorizationPolicy*> out;
  for (const AuthorizationPolicy& policy : objects_.authorization_policies) {
    if (!policy.has_selector() || !policy.targets.empty()) continue;
    if (policy.meta.ns != pod.meta.ns && policy.meta.ns != mesh_.root_namespace) continue;
    if (LabelsContain(pod.meta.labels, *policy.selector)) out.push_back(&policy);
  }
  return out;
}

}  // namespace qanat::controlplane
