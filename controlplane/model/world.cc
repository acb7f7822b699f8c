// SPDX-License-Identifier: Apache-2.0
#include "controlplane/model/world.h"

#include <algorithm>
#include <set>

namespace qanat::controlplane {
namespace {

// "frontend-7d4b9c" of ReplicaSet "frontend-7d4b9c" -> "frontend".
std::string StripSuffix(const std::string& name, const std::string* suffix) {
  if (suffix != nullptr && name.size() > suffix->size() + 1 && name.ends_with(*suffix) &&
      name[name.size() - suffix->size() - 1] == '-') {
    return name.substr(0, name.size() - suffix->size() - 1);
  }
  const size_t dash = name.rfind('-');
  return dash == std::string::npos || dash == 0 ? name : name.substr(0, dash);
}

bool AllDigits(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

template <typename Map, typename Key>
auto Find(const Map& map, const Key& key) -> typename Map::mapped_type {
  const auto it = map.find(key);
  return it == map.end() ? nullptr : it->second;
}

}  // namespace

std::shared_ptr<const World> World::Build(Objects objects, MeshConfig mesh) {
  return std::shared_ptr<const World>(new World(std::move(objects), std::move(mesh)));
}

World::World(Objects objects, MeshConfig mesh)
    : objects_(std::move(objects)), mesh_(std::move(mesh)) {
  for (const Gateway& gateway : objects_.gateways) gateways_[gateway.meta.key()] = &gateway;
  for (const Pod& pod : objects_.pods) pods_[pod.meta.key()] = &pod;
  MakeWaypointServices();
  Index();
}

void World::Index() {
  for (const Namespace& ns : objects_.namespaces) namespaces_[ns.meta.name] = &ns;
  for (const Node& node : objects_.nodes) nodes_[node.meta.name] = &node;
  for (const Pod& pod : objects_.pods) {
    pods_by_namespace_[pod.meta.ns].push_back(&pod);
    if (!pod.meta.uid.empty()) pods_by_uid_[pod.meta.uid] = &pod;
    if (pod.host_network || pod.terminal()) continue;
    for (const net::IpAddress& ip : pod.ips) {
      const auto [it, fresh] = pods_by_ip_.emplace(ip, &pod);
      if (!fresh && it->second != &pod) it->second = nullptr;
    }
  }
  for (Service& service : objects_.services) {
    service.hostname = ServiceHostname(service.meta.key());
    services_[service.meta.key()] = &service;
    services_by_namespace_[service.meta.ns].push_back(&service);
    services_by_hostname_[service.hostname] = &service;
  }
  for (const EndpointSlice& slice : objects_.endpoint_slices) {
    if (!slice.service.empty()) {
      slices_by_service_[{slice.meta.ns, slice.service}].push_back(&slice);
    }
  }
  for (const Service& service : objects_.services) {
    const WaypointRef ref = WaypointOf(service);
    if (ref.state == WaypointRef::State::kReady || ref.state == WaypointRef::State::kNotReady) {
      services_by_waypoint_[ref.gateway].push_back(&service);
    }
  }
  for (const Pod& pod : objects_.pods) {
    const WaypointRef ref = WaypointOf(pod);
    if (ref.state == WaypointRef::State::kReady || ref.state == WaypointRef::State::kNotReady) {
      pods_by_waypoint_[ref.gateway].push_back(&pod);
    }
  }
}

const Namespace* World::FindNamespace(std::string_view name) const {
  return Find(namespaces_, name);
}
const Node* World::FindNode(std::string_view name) const { return Find(nodes_, name); }
const Pod* World::FindPod(const NamespacedName& key) const { return Find(pods_, key); }
const Pod* World::FindPodByUid(std::string_view uid) const { return Find(pods_by_uid_, uid); }
const Pod* World::FindPodByIp(const net::IpAddress& ip) const { return Find(pods_by_ip_, ip); }
const Service* World::FindService(const NamespacedName& key) const { return Find(services_, key); }
const Service* World::FindServiceByHostname(std::string_view fqdn) const {
  return Find(services_by_hostname_, fqdn);
}
const Gateway* World::FindGateway(const NamespacedName& key) const { return Find(gateways_, key); }

std::vector<const Pod*> World::PodsInNamespace(std::string_view ns) const {
  const auto it = pods_by_namespace_.find(ns);
  return it == pods_by_namespace_.end() ? std::vector<const Pod*>() : it->second;
}

std::vector<const Pod*> World::PodsMatching(std::string_view ns, const Labels& selector) const {
  std::vector<const Pod*> out;
  const auto it = pods_by_namespace_.find(ns);
  if (it == pods_by_namespace_.end()) return out;
  for (const Pod* pod : it->second) {
    if (LabelsContain(pod->meta.labels, selector)) out.push_back(pod);
  }
  return out;
}

const std::string* World::NamespaceLabel(std::string_view ns, std::string_view key) const {
  const Namespace* found = FindNamespace(ns);
  return found == nullptr ? nullptr : found->meta.Label(key);
}

std::string World::ServiceHostname(const NamespacedName& key) const {
  return key.name + "." + key.ns + ".svc." + mesh_.domain;
}

std::string World::ResolveHost(std::string_view host, std::string_view from) const {
  std::string text(host);
  if (host.empty() || host.front() == '*') return text;
  const size_t dot = host.find('.');
  if (dot == std::string_view::npos) return ServiceHostname({std::string(from), text});
  // "name.ns" and "name.ns.svc", as cluster DNS takes them; only where such a service exists, since
  // "example.com" looks the same.
  const std::string name(host.substr(0, dot));
  std::string_view rest = host.substr(dot + 1);
  if (rest.ends_with(".svc")) rest.remove_suffix(4);
  if (rest.find('.') == std::string_view::npos) {
    const NamespacedName key{std::string(rest), name};
    if (FindService(key) != nullptr) return ServiceHostname(key);
  }
  return text;
}

std::vector<const Service*> World::ServicesOfPod(const Pod& pod) const {
  std::vector<const Service*> out;
  const auto it = services_by_namespace_.find(pod.meta.ns);
  if (it == services_by_namespace_.end()) return out;
  for (const Service* service : it->second) {
    if (service->type == Service::Type::kExternalName) continue;
    if (!service->selector.empty()) {
      if (LabelsContain(pod.meta.labels, service->selector)) out.push_back(service);
      continue;
    }
    // Without a selector someone else writes the EndpointSlices: a target is named by kind, name
    // and uid, never by its bare address.
    const auto slices = slices_by_service_.find(service->meta.key());
    if (slices == slices_by_service_.end()) continue;
    const bool named =
        std::any_of(slices->second.begin(), slices->second.end(), [&](const EndpointSlice* slice) {
          return std::any_of(
              slice->endpoints.begin(), slice->endpoints.end(), [&](const auto& endpoint) {
                return endpoint.target_kind == "Pod" && endpoint.target_name == pod.meta.name &&
                       (endpoint.target_namespace.empty() ||
                        endpoint.target_namespace == pod.meta.ns) &&
                       (endpoint.target_uid.empty() || endpoint.target_uid == pod.meta.uid);
              });
        });
    if (named) out.push_back(service);
  }
  return out;
}

std::optional<uint16_t> World::TargetPort(const Pod& pod, const ServicePort& port) const {
  if (port.target.number != 0) return port.target.number;
  for (const ContainerPort& candidate : pod.ports) {
    if (candidate.name == port.target.name && candidate.protocol == port.protocol) {
      return candidate.port;
    }
  }
  return std::nullopt;
}

std::vector<Endpoint> World::EndpointsOf(const Service& service, const ServicePort& port) const {
  std::vector<Endpoint> out;
  std::vector<const Pod*> pods;
  if (!service.selector.empty()) {
    pods = PodsMatching(service.meta.ns, service.selector);
  } else {
    for (const Pod* pod : PodsInNamespace(service.meta.ns)) {
      const std::vector<const Service*> of_pod = ServicesOfPod(*pod);
      if (std::find(of_pod.begin(), of_pod.end(), &service) != of_pod.end()) pods.push_back(pod);
    }
  }
  for (const Pod* pod : pods) {
    if (pod->terminal() || pod->ips.empty()) continue;
    const std::optional<uint16_t> target = TargetPort(*pod, port);
    if (!target) continue;
    Endpoint endpoint;
    endpoint.port = *target;
    endpoint.workload_uid = WorkloadUid(*pod);
    endpoint.pod = pod;
    endpoint.labels = pod->meta.labels;
    endpoint.ns = pod->meta.ns;
    endpoint.service_account = pod->service_account;
    endpoint.hbone = TakesHbone(*pod);
    endpoint.healthy = pod->ready && !pod->terminating;
    endpoint.node = pod->node;
    endpoint.identity = IdentityOf(*pod);
    if (const Node* node = FindNode(pod->node)) {
      const auto label = [&](std::string_view key) {
        const std::string* value = node->meta.Label(key);
        return value == nullptr ? std::string() : *value;
      };
      endpoint.region = label("topology.kubernetes.io/region");
      endpoint.zone = label("topology.kubernetes.io/zone");
      endpoint.subzone = label("topology.istio.io/subzone");
    }
    for (const net::IpAddress& ip : pod->ips) {
      endpoint.ip = ip;
      out.push_back(endpoint);
    }
  }
  const auto slices = slices_by_service_.find(service.meta.key());
  if (!service.selector.empty() || slices == slices_by_service_.end()) return out;
  for (const EndpointSlice* slice : slices->second) {
    for (const EndpointSlice::Port& slice_port : slice->ports) {
      if (slice_port.name != port.name || slice_port.protocol != port.protocol) continue;
      for (const EndpointSlice::Endpoint& address : slice->endpoints) {
        if (address.target_kind == "Pod") continue;
        for (const std::string& text : address.addresses) {
          const Result<net::IpAddress> ip = net::IpAddress::Parse(text);
          if (!ip) continue;
          Endpoint endpoint;
          endpoint.ip = *ip;
          endpoint.port = slice_port.port;
          endpoint.ns = service.meta.ns;
          endpoint.healthy = address.ready;
          endpoint.node = address.node;
          endpoint.zone = address.zone;
          out.push_back(std::move(endpoint));
        }
      }
    }
  }
  return out;
}

bool World::TakesHbone(const Pod& pod) const {
  if (pod.host_network) return false;
  const std::string* redirection = pod.meta.Annotation("ambient.istio.io/redirection");
  return (redirection != nullptr && *redirection == "enabled") || NativeTunnel(pod);
}

std::string World::IdentityOf(const Pod& pod) const {
  return "spiffe://" + mesh_.trust_domain + "/ns/" + pod.meta.ns + "/sa/" + pod.service_account;
}

std::string World::WorkloadUid(const Pod& pod) const {
  return mesh_.cluster_id + "//Pod/" + pod.meta.ns + "/" + pod.meta.name;
}

std::string World::WorkloadName(const Pod& pod) const {
  for (const OwnerReference& owner : pod.meta.owners) {
    if (!owner.controller && pod.meta.owners.size() > 1) continue;
    if (owner.kind == "ReplicaSet") {
      return StripSuffix(owner.name, pod.meta.Label("pod-template-hash"));
    }
    if (owner.kind == "Job") {
      // CronJobs name their Jobs <cronjob>-<scheduled minute>.
      const size_t dash = owner.name.rfind('-');
      if (dash != std::string::npos && dash > 0 && owner.name.size() - dash > 8 &&
          AllDigits(std::string_view(owner.name).substr(dash + 1))) {
        return owner.name.substr(0, dash);
      }
    }
    return owner.name;
  }
  return pod.meta.name;
}

}  // namespace qanat::controlplane
