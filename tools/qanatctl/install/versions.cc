// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/install/versions.h"

#include <fmt/format.h>

#include <map>

#include "tools/qanatctl/install/api.h"
#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {

constexpr char kControlPlane[] = "qanat-controlplane";

// version -> pods, of one part of ours.
std::map<std::string, std::vector<std::string>> VersionsOf(const std::vector<Json>& pods,
                                                           const std::string& app) {
  std::map<std::string, std::vector<std::string>> out;
  for (const Json& pod : pods) {
    const std::string phase = Str(Get(pod, "status"), "phase");
    if (!IsOurs(pod) || Str(Get(Get(pod, "metadata"), "labels"), "app") != app ||
        phase == "Succeeded" || phase == "Failed") {
      continue;
    }
    out[VersionOfPod(pod)].push_back(Str(Get(pod, "metadata"), "namespace") + "/" +
                                     Str(Get(pod, "metadata"), "name"));
  }
  return out;
}

std::string Listed(const std::map<std::string, std::vector<std::string>>& versions) {
  std::string out;
  for (const auto& [version, pods] : versions) {
    out += fmt::format("{}{} ({})", out.empty() ? "" : ", ",
                       version.empty() ? "an image without a tag" : version, fmt::join(pods, ", "));
  }
  return out;
}

}  // namespace

std::string ImageTag(const std::string& image) {
  const std::string name = image.substr(0, image.find('@'));
  const size_t colon = name.rfind(':');
  const size_t slash = name.rfind('/');
  if (colon == std::string::npos || (slash != std::string::npos && colon < slash)) return {};
  return name.substr(colon + 1);
}

std::string VersionOfPod(const Json& pod) {
  const Json& containers = Get(Get(pod, "spec"), "containers");
  return containers.is_array() && !containers.empty() ? ImageTag(Str(containers[0], "image")) : "";
}

std::string SeveralControlPlanes(const std::vector<Json>& pods) {
  const auto versions = VersionsOf(pods, kControlPlane);
  if (versions.size() < 2) return {};
  return fmt::format(
      "{} versions of the control plane run: {}; proxies are served by both, one of them writes "
      "(Lease qanat-controlplane-leader): finish the rollout (kubectl rollout status "
      "deployment/{} --namespace NAMESPACE) or give all the same version (qanatctl install "
      "--image-tag VERSION)",
      versions.size(), Listed(versions), kControlPlane);
}

std::string OtherNodeVersions(const std::vector<Json>& pods) {
  const auto control_planes = VersionsOf(pods, kControlPlane);
  if (control_planes.size() != 1) return {};
  const std::string& version = control_planes.begin()->first;
  std::string out;
  for (const char* app : {"qanat-agent", "ztunnel"}) {
    auto versions = VersionsOf(pods, app);
    versions.erase(version);
    if (!versions.empty()) out += (out.empty() ? "" : ", ") + Listed(versions);
  }
  if (out.empty()) return {};
  return fmt::format(
      "the control plane is of version {}, but others run: {}; give all the same version (qanatctl "
      "install --image-tag {})",
      version, out, version);
}

}  // namespace qanat::ctl
