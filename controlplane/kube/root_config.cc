// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/root_config.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "common/tls/crypto.h"
#include "controlplane/kube/conditions.h"
#include "controlplane/kube/kinds.h"
#include "controlplane/source/json.h"

namespace qanat::controlplane {

using nlohmann::json;

RootConfig ParseRootConfig(std::string_view text) {
  RootConfig out;
  const Result<YamlNode> node = ParseJsonObject(text);
  if (!node) return out;
  const YamlNode* metadata = node->Find("metadata");
  out.ours = TextAt(At(metadata, "labels"), kPartOf) == kPartOfQanat;
  out.version = TextAt(metadata, "resourceVersion");
  out.root = TextAt(node->Find("data"), kRootKey);
  return out;
}

Writes RootConfigWrites(const World& world, const std::map<std::string, RootConfig>& there,
                        const std::string& root_pem, std::vector<Issue>& issues) {
  Writes out;
  for (const Namespace& ns : world.objects().namespaces) {
    const std::string& name = ns.meta.name;
    // Nothing can be made in a namespace that is being removed.
    if (ns.meta.terminating) continue;
    const auto it = there.find(name);
    if (it != there.end() && it->second.root == root_pem) continue;
    if (it != there.end() && !it->second.ours) {
      issues.push_back(
          {Issue::Severity::kWarning, "", 0, fmt::format("ConfigMap {}/{}", name, kRootConfigMap),
           "belongs to another mesh and holds another root: it is left alone, so waypoints in this "
           "namespace cannot verify the control plane",
           "delete it if that mesh is gone; it is then made anew"});
      continue;
    }
    const json body = {{"apiVersion", "v1"},
                       {"kind", "ConfigMap"},
                       {"metadata",
                        {{"name", kRootConfigMap},
                         {"namespace", name},
                         {"labels", {{"istio.io/config", "true"}, {kPartOf, kPartOfQanat}}}}},
                       {"data", {{kRootKey, root_pem}}}};
    Write write;
    write.request = kube::Apply(ConfigMaps(), name, kRootConfigMap, body.dump(), kFieldManager);
    write.meaning = tls::Sha256Hex(root_pem);
    out[name] = std::move(write);
  }
  return out;
}

}  // namespace qanat::controlplane
