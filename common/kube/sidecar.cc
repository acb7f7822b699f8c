// SPDX-License-Identifier: Apache-2.0
#include "common/kube/sidecar.h"

#include <nlohmann/json.hpp>

namespace qanat::kube {
namespace {

using Json = nlohmann::json;

constexpr const char* kAnnotation = "sidecar.istio.io/status";
constexpr const char* kContainer = "istio-proxy";

const Json& Get(const Json& object, const char* key) {
  static const Json kNothing;
  const auto it = object.is_object() ? object.find(key) : object.end();
  return it != object.end() ? *it : kNothing;
}

bool IsText(const Json& json) {
  return json.is_string() && !json.get_ref<const std::string&>().empty();
}

}  // namespace

std::string SidecarOf(const Json& pod) {
  if (IsText(Get(Get(Get(pod, "metadata"), "annotations"), kAnnotation)))
    return std::string("annotation ") + kAnnotation;
  // As an init container that goes on: a native sidecar.
  for (const char* list : {"containers", "initContainers"}) {
    for (const Json& container : Get(Get(pod, "spec"), list)) {
      if (Get(container, "name") == kContainer) return std::string("container ") + kContainer;
    }
  }
  return {};
}

std::string SidecarProblem(const std::string& shown_by) {
  return "it has a sidecar (" + shown_by +
         "), which stays its proxy. To take it into the mesh, end the injection (no label "
         "istio-injection or istio.io/rev on its namespace, or sidecar.istio.io/inject: \"false\" "
         "on its template) and restart it; to leave it out, label it istio.io/dataplane-mode=none";
}

}  // namespace qanat::kube
