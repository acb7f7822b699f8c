// SPDX-License-Identifier: Apache-2.0
// EDS: which pods a cluster leads to, and who each of them must prove to be.
#include <google/protobuf/wrappers.pb.h>

#include <algorithm>
#include <initializer_list>
#include <set>
#include <tuple>
#include <utility>

#include "controlplane/envoy/names.h"
#include "controlplane/envoy/proto_util.h"
#include "controlplane/envoy/scope.h"
#include "envoy/config/endpoint/v3/endpoint.pb.h"

namespace qanat::controlplane {
namespace {

namespace endpoint_v3 = envoy::config::endpoint::v3;

std::string LabelOr(const Labels& labels, std::initializer_list<const char*> keys,
                    std::string fallback) {
  for (const char* key : keys) {
    const auto found = labels.find(key);
    if (found != labels.end() && !found->second.empty()) return found->second;
  }
  return fallback;
}

void FillEndpoint(const Scope& scope, const Endpoint& from, endpoint_v3::LbEndpoint* out) {
  const std::string address = net::SocketAddress(from.ip, from.port).ToString();
  auto* metadata = out->mutable_metadata();
  auto* qanat = MetadataOf(metadata, envoy_names::kQanatMetadata);
  if (from.hbone) {
    auto* internal = out->mutable_endpoint()->mutable_address()->mutable_envoy_internal_address();
    internal->set_server_listener_name(std::string(envoy_names::kConnectOriginate));
    internal->set_endpoint_id(address);
    SetText(MetadataOf(metadata, envoy_names::kOriginalDstMetadata), "local", address);
    SetText(MetadataOf(metadata, envoy_names::kTransportSocketMatch), "tunnel", "http");
    SetText(qanat, "identity", from.identity);
    SetText(qanat, "hbone", net::SocketAddress(from.ip, envoy_names::kHbonePort).ToString());
  } else {
    auto* socket = out->mutable_endpoint()->mutable_address()->mutable_socket_address();
    socket->set_address(from.ip.ToString());
    socket->set_port_value(from.port);
  }
  out->set_health_status(envoy::config::core::v3::HEALTHY);
  out->mutable_load_balancing_weight()->set_value(std::max<uint32_t>(from.weight, 1));

  const std::string workload = from.pod ? scope.world().WorkloadName(*from.pod) : "";
  const std::string canonical = LabelOr(
      from.labels, {"service.istio.io/canonical-name", "app.kubernetes.io/name", "app"}, workload);
  const std::string revision = LabelOr(
      from.labels, {"service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"},
      "latest");
  const std::string& cluster = scope.world().mesh().cluster_id;
  SetText(qanat, "workload", workload);
  SetText(qanat, "namespace", from.ns);
  SetText(qanat, "service_account", from.service_account);
  SetText(qanat, "pod", from.pod ? from.pod->meta.name : "");
  SetText(qanat, "uid", from.workload_uid);
  SetText(qanat, "node", from.node);
  SetText(qanat, "app", LabelOr(from.labels, {"app"}, ""));
  SetText(qanat, "version", LabelOr(from.labels, {"version"}, ""));
  SetText(qanat, "canonical_service", canonical);
  SetText(qanat, "canonical_revision", revision);
  SetText(qanat, "cluster", cluster);
  SetText(MetadataOf(metadata, envoy_names::kIstioMetadata), "workload",
          workload + ";" + from.ns + ";" + canonical + ";" + revision + ";" + cluster);
}

// In the order of uid and address, so that the order in which the objects were read does not show.
std::vector<Endpoint> UsableEndpoints(const Scope& scope, const ClusterSpec& spec) {
  std::vector<Endpoint> usable;
  std::set<std::string> seen;
  const TrafficSettings settings = scope.SettingsOf(spec);
  if (settings.tls && (settings.tls->mode == ClientTls::Mode::kSimple ||
                       settings.tls->mode == ClientTls::Mode::kMutual)) {
    return usable;  // never in the clear where TLS was asked for
  }
  for (const Endpoint& endpoint : scope.world().EndpointsOf(*spec.service, *spec.port)) {
    if (!endpoint.healthy && !spec.service->publish_not_ready) continue;
    if (!endpoint.ip.is_set()) continue;
    if (spec.subset && !LabelsContain(endpoint.labels, spec.subset->labels)) continue;
    // A tunnel whose far end has nothing to prove is not opened.
    if (endpoint.hbone && endpoint.identity.empty()) continue;
    if (endpoint.pod && !seen.insert(endpoint.workload_uid).second) continue;
    usable.push_back(endpoint);
  }
  std::sort(usable.begin(), usable.end(), [](const Endpoint& a, const Endpoint& b) {
    return std::tie(a.region, a.zone, a.subzone, a.workload_uid, a.ip, a.port) <
           std::tie(b.region, b.zone, b.subzone, b.workload_uid, b.ip, b.port);
  });
  return usable;
}

endpoint_v3::ClusterLoadAssignment Assignment(const Scope& scope, const std::string& name,
                                              const ClusterSpec& spec) {
  endpoint_v3::ClusterLoadAssignment assignment;
  assignment.set_cluster_name(name);
  endpoint_v3::LocalityLbEndpoints* group = nullptr;
  uint32_t weight = 0;
  for (const Endpoint& endpoint : UsableEndpoints(scope, spec)) {
    const auto same = [&](const envoy::config::core::v3::Locality& locality) {
      return std::tie(locality.region(), locality.zone(), locality.sub_zone()) ==
             std::tie(endpoint.region, endpoint.zone, endpoint.subzone);
    };
    if (!group || !same(group->locality())) {
      group = assignment.add_endpoints();
      weight = 0;
      group->mutable_locality()->set_region(endpoint.region);
      group->mutable_locality()->set_zone(endpoint.zone);
      group->mutable_locality()->set_sub_zone(endpoint.subzone);
    }
    FillEndpoint(scope, endpoint, group->add_lb_endpoints());
    weight += std::max<uint32_t>(endpoint.weight, 1);
    group->mutable_load_balancing_weight()->set_value(weight);
  }
  return assignment;
}

}  // namespace

void EmitEndpoints(Scope& scope) {
  for (const auto& [name, spec] : scope.clusters()) {
    scope.Emit(kEndpointType, name, Assignment(scope, name, spec));
  }
}

}  // namespace qanat::controlplane
