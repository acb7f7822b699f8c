// SPDX-License-Identifier: Apache-2.0
// What an installation consists of: the embedded manifests with the few values that differ filled
// in, as text for people and as objects for the API server. Pure.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/kube/resource.h"

namespace qanat::ctl {

// Every object of ours carries it; uninstall removes exactly what does.
inline constexpr char kPartOf[] = "app.kubernetes.io/part-of";
inline constexpr char kOurs[] = "qanat";
inline constexpr char kOursSelector[] = "app.kubernetes.io/part-of=qanat";
inline constexpr char kFieldManager[] = "qanatctl";

struct InstallValues {
  std::string ns = "qanat-system";
  std::string root_ns = "istio-system";
  std::string trust_domain = "cluster.local";
  std::string image_prefix = "localhost/qanat";
  std::string image_tag = QANAT_VERSION;
  std::string cni_own_list = "true";  // or "false": the agent's --cni-own-list
};

struct KubeObject {
  kube::Resource resource;
  std::string ns, name;
  std::string json;
  std::string Title() const;  // "Deployment qanat-controlplane"
};

// A template with its ${NAME}s replaced; an unknown one is an error.
Result<std::string> FillIn(std::string_view text, const InstallValues& values);
// Values become part of YAML: only what a name may hold is taken, and never the tag latest.
Status CheckValues(const InstallValues& values);

// All of it as one YAML text, for `qanatctl manifests`. CRDs named in `others` are left out: the
// cluster has them from somebody else.
Result<std::string> RenderText(const InstallValues& values, bool with_crds,
                               const std::set<std::string>& others = {});
// In the order in which to apply them.
Result<std::vector<KubeObject>> RenderObjects(const InstallValues& values);
Result<std::vector<KubeObject>> CrdObjects();

// The kinds that we make or look after; kNotFound for another.
Result<kube::Resource> ResourceOf(std::string_view api_version, std::string_view kind);

}  // namespace qanat::ctl
