// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/pod_files.h"

#include <fmt/format.h>

#include "tools/qanatctl/local/files.h"

namespace qanat::local {

Status WriteTokens(const PodWorld& world, const PodFacts& facts, const std::string& dir) {
  const std::string account = dir + "/serviceaccount";
  QANAT_RETURN_IF_ERROR(MakeDirs(account));
  QANAT_RETURN_IF_ERROR(WriteFile(account + "/namespace", facts.ns));
  if (world.issuer == nullptr) return {};
  const TokenSubject subject{facts.ns, facts.service_account, facts.name, facts.uid, facts.node};
  QANAT_ASSIGN_OR_RETURN(const std::string api, world.issuer->Issue(subject, kApiAudience));
  QANAT_RETURN_IF_ERROR(WriteFile(account + "/token", api));
  QANAT_ASSIGN_OR_RETURN(const std::string mesh, world.issuer->Issue(subject, kMeshAudience));
  QANAT_RETURN_IF_ERROR(WriteFile(dir + "/token", mesh, 0600));
  if (auto root = ReadFile(world.names.CaDir() + "/root-cert.pem")) {
    QANAT_RETURN_IF_ERROR(WriteFile(account + "/ca.crt", *root));
  }
  return {};
}

Status WriteVolumes(const Plan& plan, const PodPlan& pod, const std::string& dir) {
  for (const Volume& volume : pod.spec.volumes) {
    const std::string folder = dir + "/volumes/" + volume.name;
    QANAT_RETURN_IF_ERROR(MakeDirs(folder, 0777));
    if (volume.kind != Volume::Kind::kConfigMap && volume.kind != Volume::Kind::kSecret) continue;
    const bool config = volume.kind == Volume::Kind::kConfigMap;
    const NamedMaps& maps = config ? plan.config_maps : plan.secrets;
    auto it = maps.find(pod.ns + "/" + volume.source);
    if (it == maps.end()) {
      return Fail(Code::kNotFound, fmt::format("volume {}: {} {} does not exist", volume.name,
                                               config ? "ConfigMap" : "Secret", volume.source));
    }
    for (const auto& [key, content] : it->second) {
      std::string file = key;
      if (!volume.items.empty()) {
        auto item = volume.items.find(key);
        if (item == volume.items.end()) continue;
        file = item->second;
      }
      if (file.find("..") != std::string::npos) continue;
      if (const size_t slash = file.rfind('/'); slash != std::string::npos) {
        QANAT_RETURN_IF_ERROR(MakeDirs(folder + "/" + file.substr(0, slash)));
      }
      QANAT_RETURN_IF_ERROR(WriteFile(folder + "/" + file, content, 0755));
    }
  }
  return {};
}

}  // namespace qanat::local
