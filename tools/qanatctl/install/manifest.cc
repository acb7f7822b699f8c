// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/install/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "deploy/embedded.h"
#include "tools/qanatctl/json_util.h"
#include "tools/qanatctl/local/yaml.h"

namespace qanat::ctl {
namespace {

struct Kind {
  std::string_view group, version, plural, kind;
  bool namespaced;
};

constexpr Kind kKinds[] = {
    {"", "v1", "namespaces", "Namespace", false},
    {"", "v1", "serviceaccounts", "ServiceAccount", true},
    {"", "v1", "services", "Service", true},
    {"apps", "v1", "deployments", "Deployment", true},
    {"apps", "v1", "daemonsets", "DaemonSet", true},
    {"policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true},
    {"rbac.authorization.k8s.io", "v1", "roles", "Role", true},
    {"rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", true},
    {"rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", false},
    {"rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", false},
    {"admissionregistration.k8s.io", "v1", "validatingadmissionpolicies",
     "ValidatingAdmissionPolicy", false},
    {"admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings",
     "ValidatingAdmissionPolicyBinding", false},
    {"apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false},
};

std::string Join(std::string_view group, std::string_view version) {
  return group.empty() ? std::string(version) : fmt::format("{}/{}", group, version);
}

Result<std::vector<KubeObject>> ObjectsOf(std::string_view file, std::string_view text) {
  const local::YamlStream stream = local::ParseYaml(text);
  if (stream.error) {
    return Fail(Code::kInternal,
                fmt::format("{}:{}: {}", file, stream.error->line, stream.error->message));
  }
  std::vector<KubeObject> out;
  for (const local::YamlDocument& document : stream.documents) {
    const Json json = Json::parse(document.json);
    auto resource = ResourceOf(Str(json, "apiVersion"), Str(json, "kind"));
    if (!resource) return Fail(resource.error().Annotate(file));
    const Json& meta = Get(json, "metadata");
    out.push_back({std::move(*resource), Str(meta, "namespace"), Str(meta, "name"), document.json});
  }
  return out;
}

// The documents of a file but those of CRDs in `others`, each as it stands there.
Result<std::string> WithoutOthers(std::string_view file, std::string_view text,
                                  const std::set<std::string>& others) {
  constexpr std::string_view kSeparator = "---\n";
  std::string out;
  while (!text.empty()) {
    const size_t end = text.find("\n---\n");
    const std::string_view one = end == std::string_view::npos ? text : text.substr(0, end + 1);
    text.remove_prefix(end == std::string_view::npos ? text.size()
                                                     : one.size() + kSeparator.size());
    QANAT_ASSIGN_OR_RETURN(const std::vector<KubeObject> objects, ObjectsOf(file, one));
    const bool theirs = std::any_of(objects.begin(), objects.end(), [&](const KubeObject& object) {
      return others.contains(object.name);
    });
    if (!out.empty()) out += kSeparator;
    if (theirs) {
      out += fmt::format("# CRD {}: the cluster has it from somebody else, it stays as it is.\n",
                         objects.front().name);
    } else {
      out += one;
    }
  }
  return out;
}

Status CheckValue(const char* option, const std::string& value, std::string_view also) {
  const auto allowed = [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
           also.find(c) != std::string_view::npos;
  };
  if (!value.empty() && std::all_of(value.begin(), value.end(), allowed)) return {};
  return Fail(Code::kInvalidArgument,
              fmt::format("{} \"{}\": use lower-case letters, digits and -{}", option, value,
                          also.empty() ? "" : fmt::format(" {}", also)));
}

}  // namespace

std::string KubeObject::Title() const { return fmt::format("{} {}", resource.kind, name); }

Result<kube::Resource> ResourceOf(std::string_view api_version, std::string_view kind) {
  for (const Kind& k : kKinds) {
    if (k.kind != kind || Join(k.group, k.version) != api_version) continue;
    return kube::Resource{std::string(k.group), std::string(k.version), std::string(k.plural),
                          std::string(k.kind), k.namespaced};
  }
  return Fail(Code::kNotFound, fmt::format("no kind {} of {} is known here", kind, api_version));
}

Status CheckValues(const InstallValues& values) {
  QANAT_RETURN_IF_ERROR(CheckValue("--namespace", values.ns, ""));
  QANAT_RETURN_IF_ERROR(CheckValue("--root-namespace", values.root_ns, ""));
  QANAT_RETURN_IF_ERROR(CheckValue("--trust-domain", values.trust_domain, "."));
  QANAT_RETURN_IF_ERROR(CheckValue("--image-prefix", values.image_prefix, "./:_"));
  QANAT_RETURN_IF_ERROR(
      CheckValue("--image-tag", values.image_tag, "._ABCDEFGHIJKLMNOPQRSTUVWXYZ"));
  if (values.cni_own_list != "true" && values.cni_own_list != "false") {
    return Fail(Code::kInvalidArgument,
                fmt::format("--cni-own-list \"{}\": true or false", values.cni_own_list));
  }
  if (values.image_tag == "latest") {
    return Fail(Code::kInvalidArgument,
                "--image-tag latest: nobody could tell what runs; give a version");
  }
  return {};
}

Result<std::string> FillIn(std::string_view text, const InstallValues& values) {
  const std::pair<std::string_view, const std::string&> known[] = {
      {"NAMESPACE", values.ns},
      {"ROOT_NAMESPACE", values.root_ns},
      {"TRUST_DOMAIN", values.trust_domain},
      {"IMAGE_PREFIX", values.image_prefix},
      {"IMAGE_TAG", values.image_tag},
      {"CNI_OWN_LIST", values.cni_own_list},
  };
  std::string out;
  while (true) {
    const size_t begin = text.find("${");
    out += text.substr(0, begin);
    if (begin == std::string_view::npos) return out;
    const size_t end = text.find('}', begin);
    const std::string_view name = text.substr(
        begin + 2, end == std::string_view::npos ? std::string_view::npos : end - begin - 2);
    const auto* found = std::find_if(std::begin(known), std::end(known),
                                     [&](const auto& pair) { return pair.first == name; });
    if (found == std::end(known) || end == std::string_view::npos) {
      return Fail(Code::kInternal,
                  fmt::format("a manifest uses ${{{}}}, which has no value", name.substr(0, 40)));
    }
    out += found->second;
    text.remove_prefix(end + 1);
  }
}

Result<std::string> RenderText(const InstallValues& values, bool with_crds,
                               const std::set<std::string>& others) {
  QANAT_RETURN_IF_ERROR(CheckValues(values));
  std::string out = fmt::format(
      "# SPDX-License-Identifier: Apache-2.0\n"
      "# Qanat {}, made by `qanatctl manifests{}`. Needs the Gateway API's CRDs in the cluster.\n"
      "# Remove it with `qanatctl uninstall`: a plain delete takes the agents' rights away "
      "first.\n",
      QANAT_VERSION, with_crds ? "" : " --no-crds");
  if (with_crds) {
    out +=
        "# Made where the cluster could not be asked it has every CRD: in one that has Istio's "
        "use\n"
        "# `--no-crds`, or `qanatctl install`. Deleting a CRD deletes every object of its kind.\n";
  }
  for (const auto* files : {&deploy::Crds(), &deploy::Manifests()}) {
    if (files == &deploy::Crds() && !with_crds) continue;
    for (const deploy::EmbeddedFile& file : *files) {
      QANAT_ASSIGN_OR_RETURN(const std::string text,
                             files == &deploy::Crds() ? WithoutOthers(file.name, file.text, others)
                                                      : FillIn(file.text, values));
      out += "---\n" + text;
    }
  }
  return out;
}

Result<std::vector<KubeObject>> RenderObjects(const InstallValues& values) {
  QANAT_RETURN_IF_ERROR(CheckValues(values));
  std::vector<KubeObject> out;
  for (const deploy::EmbeddedFile& file : deploy::Manifests()) {
    QANAT_ASSIGN_OR_RETURN(const std::string text, FillIn(file.text, values));
    QANAT_ASSIGN_OR_RETURN(std::vector<KubeObject> objects, ObjectsOf(file.name, text));
    for (KubeObject& object : objects) out.push_back(std::move(object));
  }
  return out;
}

Result<std::vector<KubeObject>> CrdObjects() {
  std::vector<KubeObject> out;
  for (const deploy::EmbeddedFile& file : deploy::Crds()) {
    QANAT_ASSIGN_OR_RETURN(std::vector<KubeObject> objects, ObjectsOf(file.name, file.text));
    for (KubeObject& object : objects) out.push_back(std::move(object));
  }
  return out;
}

}  // namespace qanat::ctl
