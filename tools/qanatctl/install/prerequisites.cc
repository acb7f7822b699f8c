// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/install/prerequisites.h"

#include <fmt/format.h>

#include <cstdlib>

#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {

using Level = Finding::Level;

constexpr int kOldestMinor = 30;  // securityContext.appArmorProfile; all else is older

std::string Where(const Json& object) {
  const Json& meta = Get(object, "metadata");
  return Str(meta, "namespace").empty()
             ? Str(meta, "name")
             : fmt::format("{}/{}", Str(meta, "namespace"), Str(meta, "name"));
}

Status CheckPermissions(const Api& api, const InstallValues& values, std::vector<Finding>& out) {
  struct Need {
    const char *group, *resource;
    bool namespaced;
  };
  constexpr Need kNeeds[] = {{"", "namespaces", false},
                             {"apiextensions.k8s.io", "customresourcedefinitions", false},
                             {"rbac.authorization.k8s.io", "clusterroles", false},
                             {"admissionregistration.k8s.io", "validatingadmissionpolicies", false},
                             {"rbac.authorization.k8s.io", "roles", true},
                             {"apps", "daemonsets", true},
                             {"apps", "deployments", true}};
  const kube::Resource reviews{"authorization.k8s.io", "v1", "selfsubjectaccessreviews",
                               "SelfSubjectAccessReview", false};
  std::string missing;
  for (const Need& need : kNeeds) {
    Json attributes = {{"verb", "create"}, {"group", need.group}, {"resource", need.resource}};
    if (need.namespaced) attributes["namespace"] = values.ns;
    const Json review = {{"apiVersion", reviews.ApiVersion()},
                         {"kind", reviews.kind},
                         {"spec", {{"resourceAttributes", attributes}}}};
    QANAT_ASSIGN_OR_RETURN(const Json answer, api.Call(kube::Create(reviews, "", review.dump())));
    if (Bool(Get(answer, "status"), "allowed")) continue;
    missing += (missing.empty() ? "" : ", ") + std::string(need.resource);
  }
  if (!missing.empty()) {
    out.push_back({Level::kBlocks, fmt::format("you may not create {}", missing),
                   "install as a cluster administrator (ClusterRole cluster-admin)"});
  }
  return {};
}

Status CheckGatewayApi(const Api& api, std::vector<Finding>& out) {
  const kube::CallRequest discovery{.path = "/apis/gateway.networking.k8s.io/v1"};
  Result<Json> found = api.Call(discovery);
  if (!found && found.error().code != Code::kNotFound) return Fail(found.error());
  std::string missing;
  for (const char* name : {"gatewayclasses", "gateways", "httproutes"}) {
    bool there = false;
    for (const Json& resource : found ? Items(*found, "resources") : Json::array()) {
      there = there || Str(resource, "name") == name;
    }
    if (!there) missing += (missing.empty() ? "" : ", ") + std::string(name);
  }
  if (missing.empty()) {
    out.push_back({Level::kFine, "the Gateway API is there", ""});
  } else {
    out.push_back(
        {Level::kBlocks,
         fmt::format("the Gateway API's CRDs are missing ({}): waypoints and HTTPRoutes cannot be "
                     "asked for",
                     missing),
         "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/"
         "latest/download/standard-install.yaml"});
  }
  return {};
}

Finding SecondInstallation(const std::string& there, const std::string& wanted) {
  return {Level::kBlocks,
          fmt::format("Qanat is installed already, in namespace {}: a node has one agent, and the "
                      "cluster-wide rights of that one would be given to the one in {}",
                      there, wanted),
          fmt::format("upgrade that one (qanatctl install --namespace {}), or remove it first "
                      "(qanatctl uninstall --namespace {})",
                      there, there)};
}

// Two agents on a node would both capture, and two CNI plugins both enrol.
Status CheckMeshes(const Api& api, const InstallValues& values, std::vector<Finding>& out) {
  QANAT_ASSIGN_OR_RETURN(const std::vector<Json> daemon_sets, api.List(kinds::DaemonSets(), ""));
  for (const Json& set : daemon_sets) {
    const std::string name = Str(Get(set, "metadata"), "name");
    if (IsOurs(set)) {
      const std::string ns = Str(Get(set, "metadata"), "namespace");
      if (name == "qanat-agent" && ns != values.ns)
        out.push_back(SecondInstallation(ns, values.ns));
      continue;
    }
    if (name == "istio-cni-node" || name == "ztunnel") {
      out.push_back({Level::kBlocks,
                     fmt::format("DaemonSet {} of Istio's ambient mode is there: a node has one "
                                 "mesh agent",
                                 Where(set)),
                     "remove it first (istioctl uninstall, or helm uninstall istio-cni ztunnel)"});
    } else if (name == "linkerd-cni") {
      out.push_back({Level::kBlocks, fmt::format("DaemonSet {} is there", Where(set)),
                     "remove Linkerd's CNI plugin first"});
    }
  }
  QANAT_ASSIGN_OR_RETURN(const std::vector<Json> deployments, api.List(kinds::Deployments(), ""));
  for (const Json& deployment : deployments) {
    if (IsOurs(deployment) || !Str(Get(deployment, "metadata"), "name").starts_with("istiod")) {
      continue;
    }
    out.push_back(
        {Level::kBlocks,
         fmt::format("Deployment {}, Istio's control plane, is there: both would write the "
                     "statuses of the same policies and the ConfigMap istio-ca-root-cert",
                     Where(deployment)),
         "remove it first (istioctl uninstall)"});
  }
  const kube::Resource webhooks{"admissionregistration.k8s.io", "v1",
                                "mutatingwebhookconfigurations", "MutatingWebhookConfiguration",
                                false};
  QANAT_ASSIGN_OR_RETURN(const std::vector<Json> injectors, api.List(webhooks, ""));
  for (const Json& injector : injectors) {
    const std::string name = Str(Get(injector, "metadata"), "name");
    if (!name.starts_with("istio-sidecar-injector") && !name.starts_with("istio-revision-tag") &&
        !name.starts_with("linkerd-proxy-injector")) {
      continue;
    }
    out.push_back({Level::kBlocks,
                   fmt::format("MutatingWebhookConfiguration {} injects sidecars: such pods are "
                               "left out of this mesh",
                               name),
                   "remove the other mesh first, or take its injection label off the namespaces"});
  }
  return {};
}

Status CheckNetwork(const Api& api, std::vector<Finding>& out) {
  QANAT_ASSIGN_OR_RETURN(const std::optional<Json> cilium,
                         api.Find(kinds::ConfigMaps(), "kube-system", "cilium-config"));
  if (cilium) {
    for (Finding& finding : CheckCilium(*cilium)) out.push_back(std::move(finding));
  }
  const kube::Resource felix{"crd.projectcalico.org", "v1", "felixconfigurations",
                             "FelixConfiguration", false};
  QANAT_ASSIGN_OR_RETURN(const std::optional<Json> calico, api.Find(felix, "", "default"));
  if (calico) {
    for (Finding& finding : CheckCalico(*calico)) out.push_back(std::move(finding));
  }
  return {};
}

}  // namespace

Finding CheckVersion(const Json& version) {
  const std::string text = Str(version, "gitVersion");
  const int major = std::atoi(Str(version, "major").c_str());
  const int minor = std::atoi(Str(version, "minor").c_str());  // some say "30+"
  if (major == 1 && minor >= kOldestMinor) return {Level::kFine, "Kubernetes " + text, ""};
  return {Level::kBlocks,
          fmt::format("the API server is Kubernetes {}", text.empty() ? "of no version" : text),
          fmt::format("1.{} is the oldest that these manifests fit: upgrade the cluster",
                      kOldestMinor)};
}

// Names of Cilium's settings as its Helm chart writes them into the ConfigMap.
std::vector<Finding> CheckCilium(const Json& config_map) {
  std::vector<Finding> out;
  const Json& data = Get(config_map, "data");
  const std::string replacement = Str(data, "kube-proxy-replacement");
  const bool sockets =
      Str(data, "bpf-lb-sock") == "true" || replacement == "true" || replacement == "strict";
  if (sockets && Str(data, "bpf-lb-sock-hostns-only") != "true") {
    out.push_back({Level::kBlocks,
                   "Cilium's socket load balancer rewrites connect() in pods: the mesh would see "
                   "pods where services were called, and service policies would not count",
                   "helm upgrade cilium --reuse-values --set socketLB.hostNamespaceOnly=true"});
  }
  if (Str(data, "cni-exclusive") != "false") {
    out.push_back({Level::kBlocks,
                   "Cilium owns the CNI configuration alone (cni-exclusive) and would take the "
                   "mesh's plugin out of it",
                   "helm upgrade cilium --reuse-values --set cni.exclusive=false"});
  }
  return out;
}

std::vector<Finding> CheckCalico(const Json& felix) {
  const Json& spec = Get(felix, "spec");
  const std::string balancing = Str(spec, "bpfConnectTimeLoadBalancing");
  const bool off =
      balancing == "Disabled" ||
      (balancing.empty() && !Get(spec, "bpfConnectTimeLoadBalancingEnabled").is_null() &&
       !Bool(spec, "bpfConnectTimeLoadBalancingEnabled"));
  if (!Bool(spec, "bpfEnabled") || off) return {};
  return {{Level::kBlocks,
           "Calico's eBPF data plane rewrites connect() in pods: the mesh would see pods where "
           "services were called",
           "kubectl patch felixconfiguration default --type merge -p "
           "'{\"spec\":{\"bpfConnectTimeLoadBalancing\":\"Disabled\"}}'"}};
}

Result<std::vector<Finding>> CheckPrerequisites(const Api& api, const InstallValues& values) {
  std::vector<Finding> out;
  QANAT_ASSIGN_OR_RETURN(const Json version, api.Call({.path = "/version"}));
  out.push_back(CheckVersion(version));
  QANAT_RETURN_IF_ERROR(CheckPermissions(api, values, out));
  // Who may not create may not look around either, and would only read that.
  if (out.back().level == Level::kBlocks) return out;
  QANAT_RETURN_IF_ERROR(CheckGatewayApi(api, out));
  QANAT_RETURN_IF_ERROR(CheckMeshes(api, values, out));
  QANAT_RETURN_IF_ERROR(CheckNetwork(api, out));
  return out;
}

}  // namespace qanat::ctl
