// SPDX-License-Identifier: Apache-2.0
// The API server as install, uninstall and verify ask it: one request after the other, JSON in and
// out. What carries a request is a function, so that a test can stand in for the server.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/kube/resource.h"

namespace qanat::ctl {

class Api {
 public:
  using Ask = std::function<Result<kube::CallResponse>(kube::CallRequest)>;
  explicit Api(Ask ask) : ask_(std::move(ask)) {}
  // From a kubeconfig ("" = what kubectl would take, or the pod's own account).
  static Result<Api> Connect(const std::string& kubeconfig, const std::string& context);

  Result<nlohmann::json> Call(kube::CallRequest request) const;
  // Nothing when there is no such object, or no such kind.
  Result<std::optional<nlohmann::json>> Find(const kube::Resource& resource, std::string_view ns,
                                             std::string_view name) const;
  // All pages; empty when there is no such kind. Items carry no apiVersion and kind.
  Result<std::vector<nlohmann::json>> List(const kube::Resource& resource, std::string_view ns,
                                           std::string_view label_selector = {},
                                           std::string_view field_selector = {}) const;
  Status Apply(const kube::Resource& resource, std::string_view ns, std::string_view name,
               std::string json) const;
  // Fine when it is gone already.
  Status Delete(const kube::Resource& resource, std::string_view ns, std::string_view name,
                std::string_view propagation = "Background") const;

 private:
  Ask ask_;
};

// Kinds that are only read or removed here.
namespace kinds {
kube::Resource Pods();
kube::Resource Nodes();
kube::Resource Events();
kube::Resource Secrets();
kube::Resource ConfigMaps();
kube::Resource Namespaces();
kube::Resource ServiceAccounts();
kube::Resource Services();
kube::Resource Deployments();
kube::Resource DaemonSets();
kube::Resource Leases();
kube::Resource GatewayClasses();
kube::Resource Crds();
}  // namespace kinds

bool IsOurs(const nlohmann::json& object);  // by its label

}  // namespace qanat::ctl
