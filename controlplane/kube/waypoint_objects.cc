// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/waypoint_objects.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "common/tls/crypto.h"
#include "controlplane/kube/conditions.h"
#include "controlplane/kube/kinds.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;

constexpr int kHbonePort = 15008;
constexpr int kMetricsPort = 15020;
constexpr int kReadinessPort = 15021;
constexpr int kUser = 1337;  // stock's

json Metadata(const Gateway& gateway) {
  json labels = {{kManagedLabel, ManagedBy(gateway.class_name)},
                 {kGatewayNameLabel, gateway.meta.name},
                 {"gateway.networking.k8s.io/gateway-class-name", gateway.class_name},
                 {kPartOf, kPartOfQanat}};
  for (const auto& [key, value] : gateway.infrastructure_labels) labels.emplace(key, value);
  json annotations = json::object();
  for (const auto& [key, value] : gateway.infrastructure_annotations) annotations[key] = value;
  // Not blockOwnerDeletion: it wants the right to update the Gateway's finalizers.
  return {{"name", gateway.meta.name},
          {"namespace", gateway.meta.ns},
          {"labels", std::move(labels)},
          {"annotations", std::move(annotations)},
          {"ownerReferences", json::array({{{"apiVersion", "gateway.networking.k8s.io/v1"},
                                            {"kind", "Gateway"},
                                            {"name", gateway.meta.name},
                                            {"uid", gateway.meta.uid},
                                            {"controller", true}}})}};
}

json Sealed(json object) {
  const std::string hash = tls::Sha256Hex(ToText(object)).substr(0, 16);
  object["metadata"]["annotations"][std::string(kSpecHash)] = hash;
  return object;
}

// A listener's name may be longer and have dots.
std::string PortName(std::string name) {
  std::replace(name.begin(), name.end(), '.', '-');
  name.resize(std::min<size_t>(name.size(), 63));
  while (name.ends_with('-')) name.pop_back();
  return name;
}

json FromField(const char* name, const char* path) {
  return {{"name", name}, {"valueFrom", {{"fieldRef", {{"fieldPath", path}}}}}};
}

json Environment(const Gateway& gateway, const MeshConfig& mesh, const WaypointSettings& settings) {
  json out = json::array(
      {FromField("POD_NAME", "metadata.name"), FromField("POD_NAMESPACE", "metadata.namespace"),
       FromField("POD_UID", "metadata.uid"),
       FromField("SERVICE_ACCOUNT", "spec.serviceAccountName"),
       FromField("INSTANCE_IP", "status.podIP"), FromField("NODE_NAME", "spec.nodeName")});
  const auto set = [&](const char* name, const std::string& value) {
    out.push_back({{"name", name}, {"value", value}});
  };
  set("GATEWAY_NAME", gateway.meta.name);
  set("XDS_ADDRESS", settings.xds_address);
  set("CA_ADDRESS", settings.ca_address);
  set("XDS_ROOT_CA", "/var/run/secrets/istio/root-cert.pem");
  set("CA_ROOT_CA", "/var/run/secrets/istio/root-cert.pem");
  set("AUTH_TOKEN", "/var/run/secrets/tokens/istio-token");
  set("TRUST_DOMAIN", mesh.trust_domain);
  set("CLUSTER_ID", mesh.cluster_id);
  set("CLUSTER_DOMAIN", mesh.domain);
  set("NETWORK", mesh.network);
  out.push_back(
      {{"name", "QANAT_WORKER_THREADS"},
       {"valueFrom",
        {{"resourceFieldRef",
          {{"containerName", "waypoint"}, {"resource", "limits.cpu"}, {"divisor", "1"}}}}}});
  return out;
}

json Probe(int period, int failures) {
  return {{"httpGet", {{"path", "/healthz/ready"}, {"port", kReadinessPort}}},
          {"periodSeconds", period},
          {"timeoutSeconds", 1},
          {"failureThreshold", failures}};
}

json Container(const Gateway& gateway, const MeshConfig& mesh, const WaypointSettings& settings) {
  const auto port = [](const char* name, int number) -> json {
    return {{"name", name}, {"containerPort", number}, {"protocol", "TCP"}};
  };
  return {{"name", "waypoint"},
          {"image", settings.image},
          {"imagePullPolicy", "IfNotPresent"},
          {"ports", json::array({port("mesh", kHbonePort), port("http-envoy-prom", kMetricsPort),
                                 port("status-port", kReadinessPort)})},
          {"env", Environment(gateway, mesh, settings)},
          {"startupProbe", Probe(1, 30)},
          {"readinessProbe", Probe(5, 3)},
          {"resources",
           {{"requests", {{"cpu", "100m"}, {"memory", "128Mi"}}},
            {"limits", {{"cpu", "2"}, {"memory", "1Gi"}}}}},
          {"securityContext",
           {{"allowPrivilegeEscalation", false},
            {"capabilities", {{"drop", json::array({"ALL"})}}},
            {"readOnlyRootFilesystem", true},
            {"runAsNonRoot", true},
            {"runAsUser", kUser},
            {"runAsGroup", kUser},
            {"seccompProfile", {{"type", "RuntimeDefault"}}}}},
          {"volumeMounts",
           json::array({{{"name", "istio-token"}, {"mountPath", "/var/run/secrets/tokens"}},
                        {{"name", "istiod-ca-cert"}, {"mountPath", "/var/run/secrets/istio"}}})}};
}

}  // namespace

std::string_view ManagedBy(const std::string& class_name) {
  return class_name == "istio-waypoint" ? "istio.io-mesh-controller" : "qanat.io-mesh-controller";
}

std::string SpecHashOf(const json& object) {
  return object.at("metadata").at("annotations").at(std::string(kSpecHash)).get<std::string>();
}

json WaypointServiceAccount(const Gateway& gateway) {
  return Sealed(
      {{"apiVersion", "v1"}, {"kind", "ServiceAccount"}, {"metadata", Metadata(gateway)}});
}

json WaypointService(const Gateway& gateway) {
  json ports = json::array({{{"name", "status-port"},
                             {"port", kReadinessPort},
                             {"targetPort", kReadinessPort},
                             {"protocol", "TCP"}}});
  std::set<int> taken = {kReadinessPort};
  std::set<std::string> names = {"status-port"};
  const auto add = [&](std::string name, int number, bool hbone) {
    if (number == 0 || !taken.insert(number).second) return;
    if (name.empty() || !names.insert(name).second) name = "port-" + std::to_string(number);
    json port = {{"name", name}, {"port", number}, {"targetPort", number}, {"protocol", "TCP"}};
    if (hbone) port["appProtocol"] = "hbone";
    ports.push_back(std::move(port));
  };
  for (const Gateway::Listener& listener : gateway.listeners) {
    add(PortName(listener.name), listener.port, listener.protocol == "HBONE");
  }
  add("mesh", kHbonePort, true);
  json metadata = Metadata(gateway);
  metadata["annotations"]["networking.istio.io/traffic-distribution"] = "PreferClose";
  return Sealed({{"apiVersion", "v1"},
                 {"kind", "Service"},
                 {"metadata", std::move(metadata)},
                 {"spec",
                  {{"type", "ClusterIP"},
                   {"ipFamilyPolicy", "PreferDualStack"},
                   {"selector", {{kGatewayNameLabel, gateway.meta.name}}},
                   {"ports", std::move(ports)}}}});
}

json WaypointDeployment(const Gateway& gateway, const MeshConfig& mesh,
                        const WaypointSettings& settings) {
  json metadata = Metadata(gateway);
  json labels = metadata["labels"];
  // The mesh does not capture its own proxies, and no other mesh is to inject anything.
  labels.update(json{{"istio.io/dataplane-mode", "none"},
                     {"sidecar.istio.io/inject", "false"},
                     {"service.istio.io/canonical-name", gateway.meta.name},
                     {"service.istio.io/canonical-revision", "latest"}});
  json annotations = metadata["annotations"];
  annotations.update(json{{"prometheus.io/path", "/stats/prometheus"},
                          {"prometheus.io/port", std::to_string(kMetricsPort)},
                          {"prometheus.io/scrape", "true"}});
  json volumes =
      json::array({{{"name", "istio-token"},
                    {"projected",
                     {{"sources", json::array({{{"serviceAccountToken",
                                                 {{"audience", "istio-ca"},
                                                  {"expirationSeconds", 43200},
                                                  {"path", "istio-token"}}}}})}}}},
                   {{"name", "istiod-ca-cert"}, {"configMap", {{"name", "istio-ca-root-cert"}}}}});
  // A waypoint asks the control plane, never the API server: its account's token stays away.
  json pod = {{"serviceAccountName", gateway.meta.name},
              {"automountServiceAccountToken", false},
              {"terminationGracePeriodSeconds", 60},
              {"containers", json::array({Container(gateway, mesh, settings)})},
              {"volumes", std::move(volumes)}};
  // No replicas: they are the user's, or an autoscaler's.
  return Sealed(
      {{"apiVersion", "apps/v1"},
       {"kind", "Deployment"},
       {"metadata", std::move(metadata)},
       {"spec",
        {{"selector", {{"matchLabels", {{kGatewayNameLabel, gateway.meta.name}}}}},
         {"strategy",
          {{"type", "RollingUpdate"}, {"rollingUpdate", {{"maxSurge", 1}, {"maxUnavailable", 0}}}}},
         {"template",
          {{"metadata", {{"labels", std::move(labels)}, {"annotations", std::move(annotations)}}},
           {"spec", std::move(pod)}}}}}});
}

}  // namespace qanat::controlplane
