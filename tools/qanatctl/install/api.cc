// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/install/api.h"

#include <fmt/format.h>

#include <utility>

#include "common/kube/client.h"
#include "common/kube/config.h"
#include "tools/qanatctl/install/manifest.h"
#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {

Result<Api> Api::Connect(const std::string& kubeconfig, const std::string& context) {
  QANAT_ASSIGN_OR_RETURN(const kube::ClientConfig config,
                         kube::ClientConfig::Load(kubeconfig, context));
  return Api([config](kube::CallRequest request) {
    return kube::CallBlocking(config, std::move(request));
  });
}

Result<Json> Api::Call(kube::CallRequest request) const {
  const std::string what = request.method + " " + request.path;
  QANAT_ASSIGN_OR_RETURN(const kube::CallResponse response, ask_(std::move(request)));
  Json json = Json::parse(response.body, nullptr, false);
  if (json.is_discarded()) {
    return Fail(Code::kUnavailable,
                fmt::format("{}: the answer is not JSON: is this an API server?", what));
  }
  return json;
}

Result<std::optional<Json>> Api::Find(const kube::Resource& resource, std::string_view ns,
                                      std::string_view name) const {
  Result<Json> json = Call(kube::Get(resource, ns, name));
  if (json) return std::optional<Json>(std::move(*json));
  if (json.error().code == Code::kNotFound) return std::optional<Json>();
  return Fail(std::move(json.error()));
}

Result<std::vector<Json>> Api::List(const kube::Resource& resource, std::string_view ns,
                                    std::string_view label_selector,
                                    std::string_view field_selector) const {
  std::vector<Json> out;
  std::string next;
  do {
    kube::CallRequest request = kube::List(resource, ns, label_selector, field_selector);
    request.query.emplace_back("limit", "500");
    if (!next.empty()) request.query.emplace_back("continue", next);
    Result<Json> page = Call(std::move(request));
    if (!page && page.error().code == Code::kNotFound) return out;  // no such kind
    if (!page) return Fail(std::move(page.error()));
    for (const Json& item : Items(*page, "items")) out.push_back(item);
    next = Str(Get(*page, "metadata"), "continue");
  } while (!next.empty());
  return out;
}

Status Api::Apply(const kube::Resource& resource, std::string_view ns, std::string_view name,
                  std::string json) const {
  QANAT_RETURN_IF_ERROR(
      Call(kube::Apply(resource, ns, name, std::move(json), kFieldManager, true)));
  return {};
}

Status Api::Delete(const kube::Resource& resource, std::string_view ns, std::string_view name,
                   std::string_view propagation) const {
  Result<Json> gone = Call(kube::Delete(resource, ns, name, propagation));
  if (!gone && gone.error().code != Code::kNotFound) return Fail(std::move(gone.error()));
  return {};
}

namespace kinds {
kube::Resource Pods() { return {"", "v1", "pods", "Pod", true}; }
kube::Resource Nodes() { return {"", "v1", "nodes", "Node", false}; }
kube::Resource Events() { return {"", "v1", "events", "Event", true}; }
kube::Resource Secrets() { return {"", "v1", "secrets", "Secret", true}; }
kube::Resource ConfigMaps() { return {"", "v1", "configmaps", "ConfigMap", true}; }
kube::Resource Namespaces() { return {"", "v1", "namespaces", "Namespace", false}; }
kube::Resource ServiceAccounts() { return {"", "v1", "serviceaccounts", "ServiceAccount", true}; }
kube::Resource Services() { return {"", "v1", "services", "Service", true}; }
kube::Resource Deployments() { return {"apps", "v1", "deployments", "Deployment", true}; }
kube::Resource DaemonSets() { return {"apps", "v1", "daemonsets", "DaemonSet", true}; }
kube::Resource Leases() { return {"coordination.k8s.io", "v1", "leases", "Lease", true}; }
kube::Resource GatewayClasses() {
  return {"gateway.networking.k8s.io", "v1", "gatewayclasses", "GatewayClass", false};
}
kube::Resource Crds() {
  return {"apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition",
          false};
}
}  // namespace kinds

bool IsOurs(const Json& object) {
  return Str(Get(Get(object, "metadata"), "labels"), kPartOf) == kOurs;
}

}  // namespace qanat::ctl
