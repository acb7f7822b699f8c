// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/overlay.h"

#include <nlohmann/json.hpp>

#include "tools/qanatctl/local/ipam.h"

namespace qanat::local {
namespace {

std::string Dump(const Json& value) {
  return value.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json Condition(const char* type, bool value, const std::string& reason = {}) {
  Json out = {{"type", type}, {"status", value ? "True" : "False"}};
  if (!value && !reason.empty()) out["message"] = reason;
  return out;
}

Json IpList(const std::vector<std::string>& ips) {
  Json out = Json::array();
  for (const std::string& ip : ips) out.push_back({{"ip", ip}});
  return out;
}

}  // namespace

bool WantsMesh(const StringMap& pod_labels, const StringMap& namespace_labels) {
  constexpr char kLabel[] = "istio.io/dataplane-mode";
  if (auto it = pod_labels.find(kLabel); it != pod_labels.end()) return it->second == "ambient";
  auto it = namespace_labels.find(kLabel);
  return it != namespace_labels.end() && it->second == "ambient";
}

std::string RenderPodOverlay(const PodStatus& pod) {
  StringMap annotations = pod.facts.annotations;
  if (pod.redirection == "enabled") annotations["ambient.istio.io/redirection"] = "enabled";
  Json metadata = {{"name", pod.facts.name},     {"namespace", pod.facts.ns},
                   {"uid", pod.facts.uid},       {"labels", pod.facts.labels},
                   {"annotations", annotations}, {"creationTimestamp", pod.created}};
  if (!pod.owner.kind.empty()) {
    metadata["ownerReferences"] = Json::array({{{"apiVersion", pod.owner.api_version},
                                                {"kind", pod.owner.kind},
                                                {"name", pod.owner.name},
                                                {"controller", true}}});
  }
  if (pod.terminating) metadata["deletionTimestamp"] = pod.created;
  Json containers = Json::array();
  for (const auto& [name, ports] : pod.containers) {
    Json list = Json::array();
    for (const ContainerPort& port : ports) {
      Json entry = {{"containerPort", port.port}, {"protocol", port.protocol}};
      if (!port.name.empty()) entry["name"] = port.name;
      list.push_back(std::move(entry));
    }
    containers.push_back({{"name", name}, {"ports", std::move(list)}});
  }
  Json spec = {{"nodeName", pod.facts.node},
               {"serviceAccountName", pod.facts.service_account},
               {"containers", std::move(containers)}};
  if (pod.host_network) spec["hostNetwork"] = true;
  if (!pod.hostname.empty()) spec["hostname"] = pod.hostname;
  if (!pod.subdomain.empty()) spec["subdomain"] = pod.subdomain;
  Json status = {{"phase", pod.phase},
                 {"hostIP", pod.facts.host_ip},
                 {"conditions",
                  {Condition("PodScheduled", true), Condition("Initialized", pod.initialized),
                   Condition("ContainersReady", pod.ready, pod.reason),
                   Condition("Ready", pod.ready, pod.reason)}}};
  if (!pod.facts.pod_ips.empty()) {
    status["podIP"] = pod.facts.pod_ips.front();
    status["podIPs"] = IpList(pod.facts.pod_ips);
  }
  return Dump({{"apiVersion", "v1"},
               {"kind", "Pod"},
               {"metadata", std::move(metadata)},
               {"spec", std::move(spec)},
               {"status", std::move(status)}});
}

std::string RenderNodeOverlay(const NodePlan& node) {
  return Dump(
      {{"apiVersion", "v1"},
       {"kind", "Node"},
       {"metadata",
        {{"name", node.name}, {"labels", node.labels}, {"annotations", node.annotations}}},
       {"spec",
        {{"podCIDR", PodBlockV4(node.index).ToString()},
         {"podCIDRs", {PodBlockV4(node.index).ToString(), PodBlockV6(node.index).ToString()}}}},
       {"status",
        {{"addresses",
          {{{"type", "InternalIP"}, {"address", UnderlayV4(node.index).ToString()}},
           {{"type", "InternalIP"}, {"address", UnderlayV6(node.index).ToString()}},
           {{"type", "Hostname"}, {"address", node.name}}}},
         {"conditions", {Condition("Ready", true)}}}}});
}

std::string RenderServiceOverlay(const ServiceSpec& service,
                                 const std::vector<net::IpAddress>& cluster_ips, bool whole) {
  Json out = {{"apiVersion", "v1"},
              {"kind", "Service"},
              {"metadata", {{"name", service.name}, {"namespace", service.ns}}}};
  if (whole) out = *service.body;
  if (service.headless) {
    out["spec"]["clusterIP"] = "None";
    out["spec"]["clusterIPs"] = {"None"};
  } else if (!cluster_ips.empty()) {
    Json ips = Json::array();
    Json families = Json::array();
    for (const net::IpAddress& ip : cluster_ips) {
      ips.push_back(ip.ToString());
      families.push_back(ip.is_v4() ? "IPv4" : "IPv6");
    }
    out["spec"]["clusterIP"] = ips[0];
    out["spec"]["clusterIPs"] = ips;
    out["spec"]["ipFamilies"] = families;
  }
  return Dump(out);
}

std::string RenderGatewayOverlay(const GatewayPlan& gateway,
                                 const std::vector<net::IpAddress>& addresses) {
  Json list = Json::array();
  for (const net::IpAddress& ip : addresses) {
    list.push_back({{"type", "IPAddress"}, {"value", ip.ToString()}});
  }
  return Dump({{"apiVersion", "gateway.networking.k8s.io/v1"},
               {"kind", "Gateway"},
               {"metadata", {{"name", gateway.name}, {"namespace", gateway.ns}}},
               {"status", {{"addresses", std::move(list)}}}});
}

std::string RenderAgentPod(const PodStatus& pod, const Json& spec,
                           const StringMap& namespace_labels, const std::string& netns_path) {
  Json out = {{"uid", pod.facts.uid},
              {"name", pod.facts.name},
              {"namespace", pod.facts.ns},
              {"serviceAccount", pod.facts.service_account},
              {"labels", pod.facts.labels},
              {"annotations", pod.facts.annotations},
              {"namespaceLabels", namespace_labels},
              {"hostNetwork", false},
              {"netns", netns_path},
              {"ips", pod.facts.pod_ips},
              {"phase", pod.phase}};
  for (const char* key : {"dnsPolicy", "dnsConfig"}) {
    if (auto it = spec.find(key); it != spec.end()) out[key] = *it;
  }
  return Dump(out);
}

}  // namespace qanat::local
