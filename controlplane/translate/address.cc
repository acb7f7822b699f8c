// SPDX-License-Identifier: Apache-2.0
#include "controlplane/translate/address.h"

#include <algorithm>
#include <set>

#include "common/proto/workload.pb.h"
#include "controlplane/translate/authorization.h"

namespace qanat::controlplane {
namespace {

namespace pb = istio::workload;

constexpr uint32_t kHbonePort = 15008;
// Label, and the extension of the same name that tells node proxies; stock ones pass over it.
constexpr const char* kRequireWaypoint = "qanat.io/require-waypoint";

std::string Bytes(const net::IpAddress& ip) {
  return {reinterpret_cast<const char*>(ip.bytes().data()), ip.bytes().size()};
}

std::string Alias(const World& world, const net::IpAddress& ip) {
  return world.mesh().network + "/" + ip.ToString();
}

// Stock proxies take an absent trust domain as cluster.local.
std::string TrustDomainField(const World& world) {
  return world.mesh().trust_domain == "cluster.local" ? "" : world.mesh().trust_domain;
}

void SetWaypoint(const WaypointRef& ref, pb::GatewayAddress* out) {
  out->mutable_hostname()->set_namespace_(ref.gateway.ns);
  out->mutable_hostname()->set_hostname(ref.hostname);
  out->set_hbone_mtls_port(kHbonePort);
}

pb::AppProtocol AppProtocolOf(AppProtocol protocol) {
  switch (protocol) {
    case AppProtocol::kUnknown: return pb::UNKNOWN;
    case AppProtocol::kHttp1: return pb::HTTP11;
    case AppProtocol::kHttp2: return pb::HTTP2;
    case AppProtocol::kGrpc: return pb::GRPC;
    case AppProtocol::kTcp: return pb::TCP;
    case AppProtocol::kTls: return pb::TLS;
  }
  return pb::UNKNOWN;
}

const std::string* FirstLabel(const ObjectMeta& meta,
                              std::initializer_list<std::string_view> keys) {
  for (std::string_view key : keys) {
    const std::string* value = meta.Label(key);
    if (value != nullptr && !value->empty()) return value;
  }
  return nullptr;
}

void AddService(const std::string& key, const std::vector<std::pair<uint16_t, uint16_t>>& ports,
                pb::Workload& workload) {
  pb::PortList& list = (*workload.mutable_services())[key];
  std::set<std::pair<uint16_t, uint16_t>> seen;
  for (const auto& [service_port, target_port] : ports) {
    if (!seen.emplace(service_port, target_port).second) continue;
    pb::Port* port = list.add_ports();
    port->set_service_port(service_port);
    port->set_target_port(target_port);
  }
}

void Put(const std::string& uid, std::vector<std::string> aliases, const pb::Address& address,
         AddressTable& out) {
  for (const auto& [service, ports] : address.workload().services()) {
    out.members[service].push_back(uid);
  }
  out.resources.insert_or_assign(uid, MakeResource(kAddressType, uid, std::move(aliases), address));
}

void SetLocality(const World& world, const std::string& node_name, pb::Workload& out) {
  const Node* node = world.FindNode(node_name);
  if (node == nullptr) return;
  const std::string* region = node->meta.Label("topology.kubernetes.io/region");
  const std::string* zone = node->meta.Label("topology.kubernetes.io/zone");
  const std::string* subzone = node->meta.Label("topology.istio.io/subzone");
  if (region == nullptr && zone == nullptr && subzone == nullptr) return;
  if (region != nullptr) out.mutable_locality()->set_region(*region);
  if (zone != nullptr) out.mutable_locality()->set_zone(*zone);
  if (subzone != nullptr) out.mutable_locality()->set_subzone(*subzone);
}

bool SelectedByEntry(const ServiceEntry& entry, const Pod& pod) {
  return entry.workload_selector && entry.meta.ns == pod.meta.ns &&
         entry.workload_selector->Matches(pod.meta.labels);
}

// A pod of an ingress or east-west Gateway: destinations that want their waypoint take it directly.
// Whoever may make pods and Gateways in a namespace must not be able to say so of his own: it takes
// the mesh's root namespace, or a label on the namespace.
bool IsGatewayPod(const World& world, const Pod& pod) {
  if (pod.meta.ns != world.mesh().root_namespace) {
    const std::string* label = world.NamespaceLabel(pod.meta.ns, "qanat.io/gateways");
    if (label == nullptr || *label != "true") return false;
  }
  const std::string* name = pod.meta.Label("gateway.networking.k8s.io/gateway-name");
  const Gateway* gateway = name == nullptr ? nullptr : world.FindGateway({pod.meta.ns, *name});
  return gateway != nullptr && !world.IsWaypoint(*gateway);
}

// The service's own label, else its namespace's.
bool LabelIsTrue(const World& world, const ObjectMeta& meta, std::string_view key) {
  const std::string* value = meta.Label(key);
  if (value == nullptr) value = world.NamespaceLabel(meta.ns, key);
  return value != nullptr && *value == "true";
}

// The namespace's label is for services that have a waypoint (the waypoint's own has none). The
// service's own label holds in any case: without a waypoint nothing may come.
bool RequiresWaypoint(const World& world, const Service& service) {
  if (const std::string* own = service.meta.Label(kRequireWaypoint)) return *own == "true";
  return world.WaypointOf(service).effective() &&
         LabelIsTrue(world, service.meta, kRequireWaypoint);
}

// qanat.io/same-node: the pod's label or annotation, else its namespace's label, as its node's
// agent reads it. What else it may say is the agent's alone.
bool AsksForEncryption(const World& world, const Pod& pod) {
  constexpr std::string_view kSameNode = "qanat.io/same-node";
  const std::string* wish = pod.meta.Label(kSameNode);
  if (wish == nullptr) wish = pod.meta.Annotation(kSameNode);
  if (wish == nullptr) wish = world.NamespaceLabel(pod.meta.ns, kSameNode);
  return wish != nullptr && *wish == "encrypt";
}

void TranslatePod(const World& world, const Pod& pod, AddressTable& out) {
  if (pod.terminal() || pod.ips.empty()) return;
  pb::Address address;
  pb::Workload& w = *address.mutable_workload();
  std::vector<std::string> aliases;
  w.set_uid(world.WorkloadUid(pod));
  w.set_name(pod.meta.name);
  w.set_namespace_(pod.meta.ns);
  for (const net::IpAddress& ip : pod.ips) {
    w.add_addresses(Bytes(ip));
    // Nobody may look a host-network pod up by an address that it shares with its node.
    if (!pod.host_network) aliases.push_back(Alias(world, ip));
  }
  w.set_network(world.mesh().network);
  w.set_trust_domain(TrustDomainField(world));
  w.set_service_account(pod.service_account);
  w.set_node(pod.node);
  w.set_cluster_id(world.mesh().cluster_id);
  if (pod.host_network) w.set_network_mode(pb::HOST_NETWORK);
  if (world.TakesHbone(pod)) w.set_tunnel_protocol(pb::HBONE);
  w.set_native_tunnel(!pod.host_network && world.NativeTunnel(pod));
  if (IsGatewayPod(world, pod)) w.add_extensions()->set_name("qanat.io/gateway");
  if (AsksForEncryption(world, pod)) w.add_extensions()->set_name("qanat.io/encrypt");

  const std::string workload_name = world.WorkloadName(pod);
  w.set_workload_name(workload_name);
  w.set_workload_type(pb::POD);  // stock istiod: always POD
  const std::string* name =
      FirstLabel(pod.meta, {"service.istio.io/canonical-name", "app.kubernetes.io/name", "app"});
  const std::string* revision = FirstLabel(
      pod.meta, {"service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"});
  w.set_canonical_name(name == nullptr ? workload_name : *name);
  w.set_canonical_revision(revision == nullptr ? "latest" : *revision);

  for (const Service* service : world.ServicesOfPod(pod)) {
    std::vector<std::pair<uint16_t, uint16_t>> ports;
    for (const ServicePort& port : service->ports) {
      if (const auto target = world.TargetPort(pod, port)) ports.emplace_back(port.port, *target);
    }
    AddService(service->meta.ns + "/" + service->hostname, ports, w);
  }
  for (const ServiceEntry& entry : world.objects().service_entries) {
    if (!SelectedByEntry(entry, pod)) continue;
    std::vector<std::pair<uint16_t, uint16_t>> ports;
    for (const ServicePort& port : entry.ports) {
      if (const auto target = world.TargetPort(pod, port)) ports.emplace_back(port.port, *target);
    }
    for (const std::string& host : entry.hosts) AddService(entry.meta.ns + "/" + host, ports, w);
  }
  const WaypointRef waypoint = world.WaypointOf(pod);
  if (waypoint.effective()) SetWaypoint(waypoint, w.mutable_waypoint());
  for (std::string& policy : PoliciesOf(world, pod)) {
    w.add_authorization_policies(std::move(policy));
  }
  w.set_status(pod.ready && !pod.terminating ? pb::HEALTHY : pb::UNHEALTHY);
  SetLocality(world, pod.node, w);
  std::string uid = w.uid();
  Put(uid, std::move(aliases), address, out);
}

void TranslateService(const World& world, const Service& service, AddressTable& out) {
  if (service.type == Service::Type::kExternalName) return;
  pb::Address address;
  pb::Service& s = *address.mutable_service();
  std::vector<std::string> aliases;
  s.set_name(service.meta.name);
  s.set_namespace_(service.meta.ns);
  s.set_hostname(service.hostname);
  for (const net::IpAddress& ip : service.cluster_ips) {
    pb::NetworkAddress* vip = s.add_addresses();
    vip->set_network(world.mesh().network);
    vip->set_address(Bytes(ip));
    aliases.push_back(Alias(world, ip));
  }
  for (const ServicePort& port : service.ports) {
    pb::Port* p = s.add_ports();
    p->set_service_port(port.port);
    p->set_target_port(port.target.number);  // 0 when named: it differs from pod to pod
    p->set_app_protocol(AppProtocolOf(port.app_protocol));
  }
  const WaypointRef waypoint = world.WaypointOf(service);
  if (waypoint.effective()) SetWaypoint(waypoint, s.mutable_waypoint());
  s.set_ingress_use_waypoint(LabelIsTrue(world, service.meta, "istio.io/ingress-use-waypoint"));
  if (RequiresWaypoint(world, service)) s.add_extensions()->set_name(kRequireWaypoint);

  pb::LoadBalancing lb;
  using Distribution = Service::TrafficDistribution;
  if (service.internal_traffic_local) {
    lb.add_routing_preference(pb::LoadBalancing::NODE);
    lb.set_mode(pb::LoadBalancing::STRICT);
  } else if (service.distribution != Distribution::kNone) {
    for (const auto scope : {pb::LoadBalancing::NETWORK, pb::LoadBalancing::REGION,
                             pb::LoadBalancing::ZONE, pb::LoadBalancing::SUBZONE}) {
      lb.add_routing_preference(scope);
    }
    if (service.distribution == Distribution::kPreferSameNode) {
      lb.add_routing_preference(pb::LoadBalancing::NODE);
    }
    lb.set_mode(pb::LoadBalancing::FAILOVER);
  }
  if (service.publish_not_ready) lb.set_health_policy(pb::LoadBalancing::ALLOW_ALL);
  if (lb.ByteSizeLong() > 0) *s.mutable_load_balancing() = std::move(lb);

  const auto has = [&](std::string_view family) {
    return std::find(service.ip_families.begin(), service.ip_families.end(), family) !=
           service.ip_families.end();
  };
  if (has("IPv4") && has("IPv6")) {
    s.set_ip_families(pb::DUAL);
  } else if (has("IPv4")) {
    s.set_ip_families(pb::IPV4_ONLY);
  } else if (has("IPv6")) {
    s.set_ip_families(pb::IPV6_ONLY);
  }
  s.set_canonical(true);  // a Kubernetes Service wins over ServiceEntries of its host name
  std::string name = service.meta.ns + "/" + service.hostname;
  out.resources.insert_or_assign(name,
                                 MakeResource(kAddressType, name, std::move(aliases), address));
}

void TranslateSlice(const World& world, const EndpointSlice& slice, AddressTable& out) {
  if (slice.service.empty() || slice.address_type == "FQDN") return;
  const Service* service = world.FindService({slice.meta.ns, slice.service});
  if (service == nullptr || service->type == Service::Type::kExternalName) return;
  for (const EndpointSlice::Endpoint& endpoint : slice.endpoints) {
    if (endpoint.target_kind == "Pod") continue;  // the pod itself is the workload
    for (const std::string& text : endpoint.addresses) {
      const Result<net::IpAddress> ip = net::IpAddress::Parse(text);
      if (!ip) continue;
      pb::Address address;
      pb::Workload& w = *address.mutable_workload();
      w.set_uid(world.mesh().cluster_id + "/discovery.k8s.io/EndpointSlice/" + slice.meta.ns + "/" +
                slice.meta.name + "/" + ip->ToString());
      w.set_name(slice.meta.name);
      w.set_namespace_(slice.meta.ns);
      w.add_addresses(Bytes(*ip));
      w.set_network(world.mesh().network);
      w.set_cluster_id(world.mesh().cluster_id);
      w.set_node(endpoint.node);
      w.set_network_mode(pb::HOST_NETWORK);  // opaque: never looked up by its address
      w.set_status(endpoint.ready ? pb::HEALTHY : pb::UNHEALTHY);
      std::vector<std::pair<uint16_t, uint16_t>> ports;
      for (const EndpointSlice::Port& port : slice.ports) {
        if (port.protocol != Protocol::kTcp) continue;
        for (const ServicePort& service_port : service->ports) {
          if (service_port.name == port.name && service_port.protocol == Protocol::kTcp) {
            ports.emplace_back(service_port.port, port.port);
          }
        }
      }
      AddService(service->meta.ns + "/" + service->hostname, ports, w);
      std::string uid = w.uid();
      Put(uid, {}, address, out);
    }
  }
}

void TranslateEntryEndpoint(const World& world, const ServiceEntry& entry,
                            const ServiceEntry::Endpoint& endpoint, const std::string* only_host,
                            AddressTable& out) {
  pb::Address address;
  pb::Workload& w = *address.mutable_workload();
  std::vector<std::string> aliases;
  w.set_uid(world.mesh().cluster_id + "/networking.istio.io/ServiceEntry/" + entry.meta.ns + "/" +
            entry.meta.name + "/" + endpoint.address);
  w.set_name(entry.meta.name);
  w.set_namespace_(entry.meta.ns);
  w.set_network(endpoint.network.empty() ? world.mesh().network : endpoint.network);
  w.set_cluster_id(world.mesh().cluster_id);
  w.set_trust_domain(TrustDomainField(world));
  w.set_service_account(endpoint.service_account);
  w.set_workload_name(entry.meta.name);
  w.set_canonical_name(entry.meta.name);
  w.set_canonical_revision("latest");
  w.set_workload_type(pb::POD);
  if (const Result<net::IpAddress> ip = net::IpAddress::Parse(endpoint.address)) {
    w.add_addresses(Bytes(*ip));
    aliases.push_back(w.network() + "/" + ip->ToString());
  } else {
    w.set_hostname(endpoint.address);  // node proxies resolve it when it is needed
  }
  if (endpoint.weight > 0) w.mutable_capacity()->set_value(endpoint.weight);
  if (!endpoint.locality.empty()) {
    std::string_view rest = endpoint.locality;
    const auto next = [&] {
      const size_t slash = rest.find('/');
      const std::string part(rest.substr(0, slash));
      rest = slash == std::string_view::npos ? std::string_view() : rest.substr(slash + 1);
      return part;
    };
    w.mutable_locality()->set_region(next());
    w.mutable_locality()->set_zone(next());
    w.mutable_locality()->set_subzone(next());
  }
  std::vector<std::pair<uint16_t, uint16_t>> ports;
  for (const ServicePort& port : entry.ports) {
    uint16_t target = port.target.number;
    for (const auto& [name, number] : endpoint.ports) {
      if (name == port.name && number != 0) target = number;
    }
    ports.emplace_back(port.port, target);
  }
  for (const std::string& host : entry.hosts) {
    if (only_host == nullptr || *only_host == host)
      AddService(entry.meta.ns + "/" + host, ports, w);
  }
  std::string uid = w.uid();
  Put(uid, std::move(aliases), address, out);
}

void TranslateEntry(const World& world, const ServiceEntry& entry, AddressTable& out) {
  using Resolution = ServiceEntry::Resolution;
  for (const std::string& host : entry.hosts) {
    pb::Address address;
    pb::Service& s = *address.mutable_service();
    std::vector<std::string> aliases;
    s.set_name(entry.meta.name);
    s.set_namespace_(entry.meta.ns);
    s.set_hostname(host);
    const bool wildcard = host.starts_with('*');
    const std::vector<std::string>& addresses =
        entry.addresses.empty() ? entry.status_addresses : entry.addresses;
    for (const std::string& text : addresses) {
      const Result<net::Cidr> cidr = net::Cidr::Parse(text);
      if (!cidr || wildcard) continue;
      pb::NetworkAddress* vip = s.add_addresses();
      vip->set_network(world.mesh().network);
      vip->set_address(Bytes(cidr->ip()));
      const unsigned host_length = cidr->ip().is_v4() ? 32 : 128;
      if (cidr->length() != host_length) {
        vip->set_length(cidr->length());
      } else {
        aliases.push_back(Alias(world, cidr->ip()));
      }
    }
    for (const ServicePort& port : entry.ports) {
      pb::Port* p = s.add_ports();
      p->set_service_port(port.port);
      p->set_target_port(port.target.number);
      p->set_app_protocol(AppProtocolOf(port.app_protocol));
    }
    for (const std::string& san : entry.subject_alt_names) s.add_subject_alt_names(san);
    if (entry.resolution == Resolution::kNone) {
      s.mutable_load_balancing()->set_mode(pb::LoadBalancing::PASSTHROUGH);
    }
    std::string name = entry.meta.ns + "/" + host;
    // Two entries for one host in one namespace: the older one, which comes first.
    out.resources.emplace(name, MakeResource(kAddressType, name, std::move(aliases), address));
    const bool dns =
        entry.resolution == Resolution::kDns || entry.resolution == Resolution::kDnsRoundRobin;
    if (dns && entry.endpoints.empty() && !entry.workload_selector && !wildcard) {
      ServiceEntry::Endpoint implied;
      implied.address = host;
      TranslateEntryEndpoint(world, entry, implied, &host, out);
    }
  }
  for (const ServiceEntry::Endpoint& endpoint : entry.endpoints) {
    TranslateEntryEndpoint(world, entry, endpoint, nullptr, out);
  }
}

}  // namespace

AddressTable TranslateAddresses(const World& world) {
  AddressTable out;
  for (const Pod& pod : world.objects().pods) TranslatePod(world, pod, out);
  for (const Service& service : world.objects().services) TranslateService(world, service, out);
  for (const EndpointSlice& slice : world.objects().endpoint_slices) {
    TranslateSlice(world, slice, out);
  }
  for (const ServiceEntry& entry : world.objects().service_entries) {
    TranslateEntry(world, entry, out);
  }
  return out;
}

}  // namespace qanat::controlplane
